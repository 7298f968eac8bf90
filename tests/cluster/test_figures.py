"""Figures of a step's rollout, by hand."""

import numpy as np

from cluster.controller import StepInput
from cluster.executor_pool import ExecutorStats
from cluster.journal import JournalEntry
from cluster.rollout import Group
from cluster.stages.figures import rollout_figures
from learner.trajectory import FinishReason, Trajectory, Turn, VersionSpan
from problems.identity import TrajectoryId, WeightsVersion
from problems.problem import CompletionStyle, FunctionSuite, Problem


def test_trajectories_with_any_sign_of_cheating_are_a_share_of_all() -> None:
    turn = Turn(
        np.array([1], np.int32),
        np.array([2, 3], np.int32),
        np.array([True, True]),
        np.zeros(2, np.float32),
        (VersionSpan(WeightsVersion(0, 1), 0, 2),),
        FinishReason.STOP,
    )
    signs = [(), ("hard-coded-values",), ("early-frame", "hard-coded-values"), (), ()]
    entries = tuple(
        JournalEntry(Trajectory(TrajectoryId("r", "s", 0, "p", index), 0, (turn,)), b"", "passed", 0.1, found)
        for index, found in enumerate(signs)
    )
    suite = FunctionSuite(("f",), "", ("assert f()",))
    problem = Problem("p", "python", "", CompletionStyle.PROGRAM, {"main": suite})
    figures = rollout_figures(StepInput(1, [Group(0, problem, entries)]), ExecutorStats())
    assert figures["rollout/suspect_fraction"] == 2 / 5
