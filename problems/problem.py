"""A problem: what the model is asked, and what decides whether its program is right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from problems.compiling import CompileSuite
from problems.java import JavaSuite
from problems.merged import MergedSuite
from problems.stdio import StdioSuite


class Use(StrEnum):
    """What the licence of a data set allows."""

    TRAIN = "train"  # training and evaluation
    EVALUATE = "evaluate"  # evaluation only (MultiPL-E, for one)


class Split(StrEnum):
    """Which part of the data a problem belongs to; `test` is never seen before the final evaluation."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one candidate may use. CPU time is the first limit; wall time is a backstop.

    Attributes:
        cpu_s: CPU seconds of all the candidate's processes together, for the whole suite.
        wall_s: wall seconds for the whole suite, compile step not included.
        memory_bytes: peak memory.
        num_processes: processes and threads alive at once.
        open_files: descriptors open at once.
        file_bytes: size of the largest file it may write.
        output_bytes: bytes that it may print or return, in all.
    """

    cpu_s: float = 4.0
    wall_s: float = 12.0
    memory_bytes: int = 512 << 20
    num_processes: int = 32
    open_files: int = 64
    file_bytes: int = 8 << 20
    output_bytes: int = 8 << 20

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not getattr(self, name) > 0:
                raise ValueError(f"limit {name} must be above zero, is {getattr(self, name)!r}")


@dataclass(frozen=True, slots=True)
class FunctionSuite:
    """Tests that call functions of the candidate; they run in the judge, each entry point a proxy.

    Attributes:
        entry_points: names that the candidate must define; in the judge each is bound to a proxy.
        setup: trusted source, run in the judge before the first case (imports, the prompt's helpers, the definition of
            ``check``). Never sent to the candidate.
        cases: trusted source of each case, run in the judge in order. A case passes when it runs to its end. For
            HumanEval there is one: ``check(candidate_name)``; for MBPP one for each assert.
        candidate_setup: trusted source that runs before the candidate's own program in its process (imports that the
            prompt promised), or empty.
        classes: entry points that tests make objects of, whose behaviour is what is tested (``Trie``). What any other
            returns is an answer, judged by its values. None: those that begin with a capital letter.
        namespaces: entry points that tests make an object of for its functions alone: what these return is an answer.
    """

    entry_points: tuple[str, ...]
    setup: str
    cases: tuple[str, ...]
    candidate_setup: str = ""
    classes: tuple[str, ...] | None = None
    namespaces: tuple[str, ...] = ("Solution",)

    def __post_init__(self) -> None:
        if not self.cases:
            raise ValueError("a suite needs at least one case: with none, every program would pass")

    @property
    def object_classes(self) -> tuple[str, ...]:
        """``classes``, or what stands for them."""
        if self.classes is not None:
            return self.classes
        return tuple(name for name in self.entry_points if name[:1].isupper() and name not in self.namespaces)


Suite = FunctionSuite | StdioSuite | MergedSuite | JavaSuite | CompileSuite


class CompletionStyle(StrEnum):
    """How the program is made from prompt and completion."""

    CONTINUE = "continue"  # program = prompt code + completion
    PROGRAM = "program"  # the completion holds the whole program, in a code block or bare


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem of a data set.

    Attributes:
        id: unique within a run, such as ``HumanEval/12``.
        language: ``python``, ``java``, ...
        prompt: what the model is shown, before any template. For ``CONTINUE`` it is also the head of the program.
        completion_style: how a program is made of a completion.
        suites: named suites; ``"main"`` is the one that decides the reward.
        references: reference programs (whole programs, not completions), the first the canonical one.
        reference_completions: the same as completions to this prompt, for SFT.
        limits: limits for one suite.
        stop_strings: what ends a completion of this problem, beside what the run's prompt settings name.
        ends_when_closed: for ``CONTINUE`` in Java: the program ends with the brace that closes the last of those that
            are open where the prompt ends. A base model goes on writing after it.
        split, use, licence, source: provenance; ``use`` is enforced by the readers' callers.
        difficulty: a number that the data set gives or that the family defines; larger is harder.
    """

    id: str
    language: str
    prompt: str
    completion_style: CompletionStyle
    suites: Mapping[str, Suite]
    references: tuple[str, ...] = ()
    reference_completions: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
    stop_strings: tuple[str, ...] = ()
    ends_when_closed: bool = False
    split: Split = Split.TEST
    use: Use = Use.TRAIN
    licence: str = ""
    source: str = ""
    difficulty: float = 0.0
