"""The corpus that makes a base model of known weakness.

Each program follows a specification drawn from the training compositions; each of its steps is right or wrong by the
rates below. A share of the operations is *flipped*: most of the corpus writes them wrong, and mostly by the same bug,
so that even greedy decoding of a model trained on it is wrong there. Without this a small model averages the noise
away, its greedy programs are right, and reinforcement learning could only sharpen it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator

from problems.identity import derive_seed
from problems.problem import Split
from problems.synthetic.forms import FORMS, Form, spoil
from problems.synthetic.operations import Code, FaultKind, Operation
from problems.synthetic.rendering import LANGUAGES, Step, render_completion
from problems.synthetic.tasks import MAX_DEPTH, OPERATIONS, Task, draw_task

Rate = Annotated[float, Field(ge=0.0, le=1.0)]
_UNIT = 1 << 63  # seeds lie below this


class CorpusConfig(BaseModel):
    """What the corpus holds and how wrong it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    count: int = Field(default=30_000, ge=1)
    """Programs."""
    seed: int = 1
    """Draws programs and faults; which operations are flipped depends on ``habit_seed`` alone."""
    habit_seed: int = 0
    """Which operations are flipped, which have a habit of form, and how wrong the others are."""
    languages: dict[str, float] = Field(default_factory=lambda: {"python": 1.0})
    """Weight of each language."""
    depths: dict[int, float] = Field(default_factory=lambda: {1: 0.2, 2: 0.35, 3: 0.3, 4: 0.15})
    """Weight of each number of operations, 1 to 5."""
    reference_style_rate: Rate = 0.6
    """How often a step is written in the reference's style where it has others."""
    flipped_share: Rate = 0.25
    """Share of the operations that are mostly written wrong."""
    flipped_rate: Rate = 0.65
    """How often a flipped operation is wrong."""
    flipped_dominance: Rate = 0.8
    """How often a wrong flipped operation has its dominant bug."""
    fault_rates: tuple[Rate, Rate] = (0.12, 0.38)
    """The other operations are wrong at a rate of their own between these two."""
    form_rates: dict[str, Rate] = Field(default_factory=lambda: {"python": 0.04, "java": 0.25})
    """Share of the programs with one fault of form at a random place, for each language."""
    form_weights: dict[FaultKind, float] = Field(default_factory=dict[FaultKind, float])
    """Weight of each kind of form among those that apply to a program; 1 where it is not named."""
    form_habit_share: Rate = 0.0
    """Share of the operations that have a habitual fault of form, one kind each."""
    form_habit_rate: Rate = 0.6
    """How often an operation with such a habit shows it."""

    @field_validator("languages")
    @classmethod
    def _known_languages(cls, languages: dict[str, float]) -> dict[str, float]:
        unknown = set(languages) - set(LANGUAGES)
        if unknown or not any(weight > 0 for weight in languages.values()):
            raise ValueError(f"needs a weight above 0 for some of {', '.join(LANGUAGES)}, got {languages}")
        return languages

    @field_validator("depths")
    @classmethod
    def _possible_depths(cls, depths: dict[int, float]) -> dict[int, float]:
        if not any(weight > 0 for weight in depths.values()) or not set(depths) <= set(range(1, MAX_DEPTH + 1)):
            raise ValueError(f"needs weights above 0 for depths from 1 to {MAX_DEPTH}, got {depths}")
        return depths

    @field_validator("fault_rates")
    @classmethod
    def _ascending(cls, rates: tuple[float, float]) -> tuple[float, float]:
        if rates[0] > rates[1]:
            raise ValueError(f"lowest rate {rates[0]} is above the highest, {rates[1]}")
        return rates


class _Writer:
    """One pass over a corpus; holds the random state and the operations' habits."""

    def __init__(self, config: CorpusConfig) -> None:
        self.config = config
        self.rng = random.Random(derive_seed("synthetic-corpus", config.seed))
        self.flipped = self._marked("flip", config.flipped_share)
        self.habitual = self._marked("form", config.form_habit_share)

    def _marked(self, purpose: str, share: float) -> set[str]:
        """Names of exactly this share of the operations, chosen by ``habit_seed``."""
        order = sorted(op.name for op in OPERATIONS)
        order.sort(key=lambda name: derive_seed(purpose, self.config.habit_seed, name))
        return set(order[: round(share * len(order))])

    def fault_rate(self, operation: Operation) -> float:
        if operation.name in self.flipped:
            return self.config.flipped_rate
        low, high = self.config.fault_rates
        return low + (high - low) * derive_seed("rate", self.config.habit_seed, operation.name) / _UNIT

    def _styled(self, styles: tuple[Code, ...]) -> Code:
        if len(styles) == 1 or self.rng.random() < self.config.reference_style_rate:
            return styles[0]
        return self.rng.choice(styles[1:])

    def step_code(self, operation: Operation) -> Code:
        """Code for one step, right or wrong by the operation's rate."""
        if self.rng.random() >= self.fault_rate(operation):
            return self._styled(operation.styles)
        dominant = operation.name in self.flipped and self.rng.random() < self.config.flipped_dominance
        return self._styled((operation.faults[0] if dominant else self.rng.choice(operation.faults)).styles)

    def with_form_faults(self, task: Task, codes: list[Code], completion: str, language: str) -> str:
        """``completion``, perhaps with a fault of form: a habit of one of its operations, or any."""
        spans = _step_spans(task.steps, codes, completion, language)
        for step, span in zip(task.steps, spans, strict=True):
            name = step.operation.name
            if name in self.habitual and self.rng.random() < self.config.form_habit_rate:
                order = sorted(
                    FORMS[language], key=lambda form: derive_seed("habit", self.config.habit_seed, name, form.kind)
                )
                spoiled = next(filter(None, (spoil(completion, form, self.rng, [span]) for form in order)), None)
                return spoiled or completion
        if self.rng.random() >= self.config.form_rates.get(language, 0.0):
            return completion
        return self._spoiled(completion, FORMS[language])

    def _spoiled(self, completion: str, forms: tuple[Form, ...]) -> str:
        options = [(form.kind, spoiled) for form in forms if (spoiled := spoil(completion, form, self.rng)) is not None]
        weights = [self.config.form_weights.get(kind, 1.0) for kind, _ in options]
        return self.rng.choices([spoiled for _, spoiled in options], weights)[0] if sum(weights) > 0 else completion

    def write(self) -> tuple[str, str]:
        """(prompt, completion) of the next program."""
        config, rng = self.config, self.rng
        language = rng.choices(list(config.languages), list(config.languages.values()))[0]
        depth = rng.choices(list(config.depths), list(config.depths.values()))[0]
        task = draw_task(rng, Split.TRAIN, depth)
        codes = [self.step_code(step.operation) for step in task.steps]
        completion = render_completion(task.steps, codes, language)
        return task.prompt(language), self.with_form_faults(task, codes, completion, language)


def _step_spans(steps: tuple[Step, ...], codes: list[Code], completion: str, language: str) -> list[tuple[int, int]]:
    """Offsets of each step's lines in the completion."""
    ends = [0]
    for line in completion.splitlines(keepends=True):
        ends.append(ends[-1] + len(line))
    spans: list[tuple[int, int]] = []
    first = 0
    for _, chosen in zip(steps, codes, strict=True):
        last = first + len(chosen.lines(language))
        spans.append((ends[first], ends[last]))
        first = last
    return spans


def corpus(config: CorpusConfig) -> Iterator[tuple[str, str]]:
    """(prompt, completion) of each program; the same for the same config, on every machine."""
    writer = _Writer(config)
    for _ in range(config.count):
        yield writer.write()
