"""What stages that learn from pairs of answers have in common: the pairs, split by problem."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.answers import read_pairs
from cluster.context import RunContext
from cluster.errors import ConfigError
from cluster.stage_config import STAGE_PREFIX, CollectStage, DPOStage, MineStage, RewardModelStage
from learner.preferences import PreferencePair, part_held_out
from problems.tokenizer import vocabulary_digest


@dataclass(frozen=True, slots=True)
class SplitPairs:
    """Pairs of a stage; one problem's lie all on one side.

    Attributes:
        train: of all sources.
        held_out: by source, to judge a model by.
    """

    train: list[PreferencePair]
    held_out: dict[str, list[PreferencePair]]

    @property
    def judged(self) -> list[PreferencePair]:
        """The held-out pairs of all sources."""
        return [pair for pairs in self.held_out.values() for pair in pairs]


def split_pairs(context: RunContext, stage: RewardModelStage | DPOStage, model: str) -> SplitPairs:
    """The pairs that ``stage`` names; ``model`` is what learns from them.

    Raises ConfigError: too few on one side, or answers in another tokenizer's ids than the model's.
    """
    train: list[PreferencePair] = []
    held_out: dict[str, list[PreferencePair]] = {}
    for reference in stage.pairs:
        source = reference.removeprefix(STAGE_PREFIX)
        _reads_the_same_ids(context, stage, source, model)
        pairs = read_pairs(context.folder.stage(source).root)
        learned, held_out[source] = part_held_out(
            pairs, lambda pair: pair.chosen.problem_id, stage.held_out_share, stage.held_out_seed
        )
        train += learned
    split = SplitPairs(train, held_out)
    if not train or not split.judged:
        raise ConfigError(
            f"stages.{stage.name}: {len(train)} pairs to learn from and {len(split.judged)} to judge the model by are "
            "too few; collect more, or change held_out_share"
        )
    return split


def _reads_the_same_ids(context: RunContext, stage: RewardModelStage | DPOStage, source: str, model: str) -> None:
    writer = next(one for one in context.config.stages if one.name == source)
    assert isinstance(writer, CollectStage | MineStage), "the recipe's own check lets no other stage make pairs"
    wrote, reads = (
        vocabulary_digest(context.tokenizer(context.model_path(one)).tokenizer) for one in (writer.model, model)
    )
    if wrote != reads:
        raise ConfigError(
            f"stages.{stage.name}: {model!r} has another tokenizer than {writer.model!r}, which wrote the answers of "
            f"stages.{source}"
        )
