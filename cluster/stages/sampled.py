"""What stages that learn from answers have in common: a model's answers to problems, executed and journalled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from actors.rewards import ShareOfTestsConfig, build_terms
from cluster.context import RunContext
from cluster.inputs import problems_of
from cluster.journal import JournalEntry, write_journal
from cluster.rollout import Ask, Group
from cluster.run_folder import StageFolder
from cluster.stage_config import CollectStage, LineLabelsStage, MineStage
from problems.identity import WeightsVersion


@dataclass(frozen=True, slots=True)
class SampledAnswers:
    """Executed answers.

    Attributes:
        groups: one a problem.
        num_filtered_prompts: problems left out since their prompt is over the limit.
    """

    groups: Sequence[Group]
    num_filtered_prompts: int

    @property
    def entries(self) -> list[JournalEntry]:
        """All answers, dropped ones too."""
        return [entry for group in self.groups for entry in group.entries]


async def sample_and_execute(
    context: RunContext,
    stage: CollectStage | MineStage | LineLabelsStage,
    folder: StageFolder,
    version: WeightsVersion,
    *,
    model: str,
    epoch: int = 0,
) -> SampledAnswers:
    """Samples ``stage.samples`` answers to each problem, runs all cases of their tests, and writes the journal.

    An answer's reward is the share of the cases that passed.

    Args:
        version: what ``model`` is served as; another one for each model of the stage.
        model: who answers.
        epoch: of the answers' identities; another one for each model of the stage.
    """
    path = context.model_path(model)
    problems = problems_of(stage.problems)
    terms = build_terms([ShareOfTestsConfig(weight=1.0)])
    rollout = context.rollout(context.tokenizer(path), stage.sampling, terms, execute_cut=False)
    kept = [problem for problem in problems if rollout.fits(problem)]
    context.panel.begin(stage.name, len(kept))
    await context.serve(path, version)
    asks = [
        Ask(context.config.name, stage.name, epoch, index, problem, stage.samples, stage.sampling.temperature)
        for index, problem in enumerate(kept)
    ]
    groups = await rollout.groups(
        asks, lambda: context.panel.progress(stage.name, context.panel.rows[stage.name].done + 1)
    )
    sampled = SampledAnswers(groups, len(problems) - len(kept))
    write_journal(folder.trajectories, version, sampled.entries)
    return sampled
