"""The family as problem sets: which split, how many, how deep."""

from __future__ import annotations

import random
from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from problems.identity import derive_seed
from problems.problem import Problem, Split
from problems.synthetic.rendering import LANGUAGES
from problems.synthetic.tasks import MAX_DEPTH, CheckedTask, draw_task, with_tests

_DRAWS_WITHOUT_A_NEW_TASK = 3000  # after so many in a row the family is taken to be exhausted


class SyntheticConfig(BaseModel):
    """A problem set of the family."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    split: Split = Split.TRAIN
    """``train``, ``validation`` or ``test``; no composition is in two of them."""
    count: int = Field(default=1000, ge=1)
    """Problems."""
    depth: tuple[int, int] = (2, 3)
    """Least and most operations; each depth is drawn equally often."""
    seed: int = 0
    """Which problems are drawn. A problem's own tests depend on its id alone."""
    language: str = "python"
    """``python`` or ``java``."""

    @field_validator("depth")
    @classmethod
    def _possible(cls, depth: tuple[int, int]) -> tuple[int, int]:
        if not 1 <= depth[0] <= depth[1] <= MAX_DEPTH:
            raise ValueError(f"must lie within 1-{MAX_DEPTH}, least first, got {depth[0]}-{depth[1]}")
        return depth

    @field_validator("language")
    @classmethod
    def _known(cls, language: str) -> str:
        if language not in LANGUAGES:
            raise ValueError(f"{language!r} is none of {', '.join(LANGUAGES)}")
        return language


def checked_tasks(config: SyntheticConfig) -> Iterator[CheckedTask]:
    """Distinct tasks of a split with their tests; the language plays no part in the draw.

    Raises:
        ValueError: if the split has no composition of some depth, or fewer tasks than asked for.
    """
    low, high = config.depth
    if low == 1 and config.split is not Split.TRAIN:
        raise ValueError(f"field depth: single operations are all in the train split, none in {config.split}")
    rng = random.Random(derive_seed("synthetic-problems", config.split, config.seed))
    seen: set[str] = set()
    idle = 0
    while len(seen) < config.count:
        task = draw_task(rng, config.split, rng.randint(low, high))
        checked = None if task.label in seen else with_tests(task)
        idle = idle + 1 if checked is None else 0
        if idle > _DRAWS_WITHOUT_A_NEW_TASK:
            raise ValueError(
                f"field count: only {len(seen)} distinct problems were found of the {config.count} asked for"
            )
        if checked is not None:
            seen.add(task.label)
            yield checked


def synthetic_problems(config: SyntheticConfig) -> list[Problem]:
    """The problems of ``config``, in the order of their draw. Raises ValueError as ``checked_tasks``."""
    return [checked.problem(config.language, config.split) for checked in checked_tasks(config)]


def parse_synthetic(text: str) -> SyntheticConfig:
    """The config that ``split=train,count=12000,depth=2-3,seed=11,language=java`` stands for; all fields optional.

    Raises:
        ValueError: naming the field.
    """
    fields: dict[str, object] = {}
    for item in filter(None, text.split(",")):
        name, separator, value = item.partition("=")
        if not separator:
            raise ValueError(f"synthetic: {item!r} is not of the form field=value")
        fields[name] = _depth(value) if name == "depth" else value
    try:
        return SyntheticConfig.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"synthetic: field {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _depth(text: str) -> list[str]:
    low, _, high = text.partition("-")
    return [low, high or low]
