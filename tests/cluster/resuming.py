"""A synchronous run that is killed and started again must make the weights of one that was not, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cluster.journal import journal_path, read_journal
from cluster.ledger import surviving_steps
from problems.identity import WeightsVersion
from tests.cluster.conftest import StandInRun

NUM_STEPS = 6
STAGE = {
    "max_staleness": 0,
    "max_replacements": 1,  # what was replaced is replaced by the same again
    "checkpoint_every_steps": 2,
    # The tiny model has learned nothing: that some of its completions are cut and others are not makes the rewards.
    "sampling": {"max_new_tokens": 12},
    "learner": {
        "num_steps": NUM_STEPS,
        "advantage": {"kind": "gae", "critic": {"warmup_rollouts": 16, "warmup_steps": 2}},
    },
}


def assert_a_killed_run_ends_as_an_undisturbed_one(
    make_run: Callable[..., StandInRun], address: str, **run: Any
) -> None:
    """Both runs have one name and seed, and so the same identities; the second one's driver is killed after step 3."""
    undisturbed, killed = (make_run(stage=dict(STAGE), **run) for _ in range(2))
    undisturbed.start(address)
    killed.start(address)
    killed.wait(lambda: killed.steps >= 3, 500.0, "three steps")
    assert killed.process is not None
    killed.process.kill()
    killed.process.wait()
    killed.start(address)
    undisturbed.finish(500.0)
    killed.finish(500.0)
    lineages = {step.version.lineage for step in surviving_steps(killed.root / "stages/ppo/ledger.jsonl")}
    assert len(lineages) == 2, "it was killed after its last step: this shows nothing"
    for step in range(NUM_STEPS):
        assert sampled(killed, step) == sampled(undisturbed, step), f"step {step} was offered other trajectories"
    weights = [(one.root / "stages/ppo/model/model.safetensors").read_bytes() for one in (undisturbed, killed)]
    assert weights[0] == weights[1]
    assert weights[0] != (undisturbed.model / "model.safetensors").read_bytes(), "nothing was learned"
    assert undisturbed.verify().splitlines()[0] == killed.verify().splitlines()[0]


def sampled(run: StandInRun, step: int) -> list[tuple[Any, ...]]:
    """What the surviving step was offered, to the bit: identity, tokens, log-probabilities, rewards, drops."""
    steps = surviving_steps(run.root / "stages/ppo/ledger.jsonl")
    lineage = steps[step].version.lineage
    entries = read_journal(journal_path(run.root / "stages/ppo/trajectories", WeightsVersion(lineage, step)))
    return [
        (
            str(entry.trajectory.id),
            [(turn.completion_ids.tobytes(), turn.behaviour_logprobs.tobytes()) for turn in entry.trajectory.turns],
            [(event.term, event.token, event.value) for event in entry.trajectory.events],
            entry.trajectory.drop_reason,
        )
        for entry in entries
    ]
