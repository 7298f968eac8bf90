"""Labels of lines: the search for the first line from which a program cannot be saved, and what is learned from.

Of an answer with T lines that count (blank lines, comments and docstrings do not), the first ``num_good`` prefixes can
be completed to a program that passes. One probe asks whether a prefix can; by bisection (arXiv 2410.17621)

    labels of the lines that count    +1 .. +1 -1 .. -1      (num_good times +1)
    labels of the others              0

cost at most ceil(log2(T + 1)) probes, and none for an answer that passes: all its lines are good. Bisection takes for
granted that a prefix of a good prefix is good; a probe by a few completions can only err by calling a good one bad.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

GOOD, NEUTRAL, BAD = 1, 0, -1

Selection = Literal["full", "remove_hard", "medium_only", "revised_only"]


class LineSearch:
    """The bisection of one answer. ``probe`` says which prefix is asked for next, ``answer`` takes what came of it."""

    def __init__(self, num_lines: int) -> None:
        """``num_lines``: T, lines that count."""
        self._good, self._bad = 0, num_lines + 1  # the empty prefix is taken to be good; nothing lies beyond the whole
        self.num_probes = 0

    @property
    def probe(self) -> int | None:
        """How many of the lines that count the prefix holds that is asked for next, 1 to T; None when all is known."""
        return (self._good + self._bad) // 2 if self._bad - self._good > 1 else None

    def answer(self, is_good: bool) -> None:
        """Whether the prefix of ``probe`` can be completed."""
        asked = self.probe
        assert asked is not None, "the search is over"
        self.num_probes += 1
        if is_good:
            self._good = asked
        else:
            self._bad = asked

    @property
    def num_good(self) -> int:
        """Lines that are known to be good; the result when ``probe`` is None."""
        return self._good

    @property
    def most_probes(self) -> int:
        """That may still be asked for: ceil(log2(T + 1)) of a search that begins."""
        return (self._bad - self._good - 1).bit_length()


def labels_of(is_neutral: Sequence[bool], num_good: int) -> list[int]:
    """[L] labels of an answer's lines in order: the first ``num_good`` that count +1, the others that do -1, else 0."""
    labels: list[int] = []
    seen = 0
    for neutral in is_neutral:
        seen += not neutral
        labels.append(NEUTRAL if neutral else GOOD if seen <= num_good else BAD)
    return labels


@dataclass(frozen=True, slots=True)
class LabelledAnswer:
    """One answer with its lines; L spans of lines (problems.linespans), of which T count.

    Attributes:
        problem_id: what was asked.
        name: unique.
        policy: the model that wrote it.
        prompt_ids, completion_ids: tokens as sampled.
        passed: every test passed.
        line_tokens: [L] index in the completion of the token that ends each span, ascending.
        labels: [L] +1, -1, or 0 for a neutral one.
        num_probes: prefixes that were asked for.
        num_completions: completions that these cost.
        program: source as it was executed, for people.
        language: of the program.
    """

    problem_id: str
    name: str
    policy: str
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    passed: bool
    line_tokens: tuple[int, ...]
    labels: tuple[int, ...]
    num_probes: int = 0
    num_completions: int = 0
    program: str = ""
    language: str = ""

    def __post_init__(self) -> None:
        if len(self.line_tokens) != len(self.labels):
            raise ValueError(f"answer {self.name}: {len(self.line_tokens)} line_tokens and {len(self.labels)} labels")
        if not set(self.labels) <= {GOOD, NEUTRAL, BAD}:
            raise ValueError(f"answer {self.name}: labels are 1, 0 and -1, not {sorted(set(self.labels))}")
        places = (-1, *self.line_tokens, len(self.completion_ids))
        if any(left >= right for left, right in pairwise(places)):
            raise ValueError(f"answer {self.name}: line_tokens do not ascend within its completion's tokens")

    @property
    def num_tokens(self) -> int:
        """Of prompt and completion."""
        return len(self.prompt_ids) + len(self.completion_ids)

    @property
    def counted(self) -> list[int]:
        """[T] labels of the lines that count, in order."""
        return [label for label in self.labels if label != NEUTRAL]

    @property
    def num_good(self) -> int:
        """Lines that count before the first bad one."""
        return sum(label == GOOD for label in self.labels)


def select_answers(answers: Iterable[LabelledAnswer], selection: Selection) -> list[LabelledAnswer]:
    """The answers that a process reward model learns from; one without any line never is.

    The paper names the selections and says of one what it is. ``full``: all. ``revised_only`` (its best): failing
    answers of which some prefix was found good. Ours, by the share of a problem's answers in ``answers`` that pass:
    ``remove_hard``: without problems that no answer passes. ``medium_only``: only those that some pass and some fail.
    """
    usable = [answer for answer in answers if answer.counted]
    if selection == "full":
        return usable
    if selection == "revised_only":
        return [answer for answer in usable if not answer.passed and answer.num_good]
    passed: defaultdict[str, list[bool]] = defaultdict(list)
    for answer in usable:
        passed[answer.problem_id].append(answer.passed)
    kept = {name for name, verdicts in passed.items() if any(verdicts)}
    if selection == "medium_only":
        kept -= {name for name, verdicts in passed.items() if all(verdicts)}
    return [answer for answer in usable if answer.problem_id in kept]
