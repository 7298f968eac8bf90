"""Pairs of answers to one prompt, of which one is better: what a reward model learns from.

Pairs never cross problems, and a problem's pairs lie all on one side of the split.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from learner.selection import KEY_BITS
from problems.identity import derive_seed

T = TypeVar("T")
PairRule = Literal["right_wrong", "most_different", "all"]


@dataclass(frozen=True, slots=True)
class ScoredAnswer:
    """One executed answer.

    Attributes:
        problem_id: pairs are made within it.
        name: unique; draws depend on it and on nothing else.
        prompt_ids, completion_ids: tokens as sampled.
        true_score: what the tests say, in [0, 1]: the share of cases that passed.
        passed: every case passed.
    """

    problem_id: str
    name: str
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    true_score: float
    passed: bool


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """Two different answers to one problem; ``chosen`` is the better."""

    chosen: ScoredAnswer
    rejected: ScoredAnswer

    def __post_init__(self) -> None:
        if self.chosen.problem_id != self.rejected.problem_id:
            raise ValueError(f"a pair across problems: {self.chosen.problem_id!r} and {self.rejected.problem_id!r}")
        if self.chosen.completion_ids == self.rejected.completion_ids:
            raise ValueError(f"a pair of equal answers: {self.chosen.name}")


def make_pairs(
    answers: Iterable[ScoredAnswer], rule: PairRule, *, per_problem: int | None = None, seed: int = 0
) -> list[PreferencePair]:
    """Pairs within each problem. Equal answers to a problem count once.

    Args:
        answers: of any number of problems, in any order.
        rule: ``right_wrong``: one that passes and one that does not (PF-PPO's pairs). ``most_different``: the one pair
            with the largest difference of true scores. ``all``: all that differ in their true score.
        per_problem: most pairs of one problem, drawn uniformly; None: all that the rule gives.
        seed: of that draw, and of the choice among equally different pairs.
    """
    problems: dict[str, dict[tuple[int, ...], ScoredAnswer]] = defaultdict(dict)
    for answer in sorted(answers, key=lambda answer: answer.name):
        problems[answer.problem_id].setdefault(answer.completion_ids, answer)
    pairs: list[PreferencePair] = []
    for problem_id in sorted(problems):
        found = _of_problem(list(problems[problem_id].values()), rule)
        found.sort(key=lambda pair: derive_seed("pairs", seed, pair.chosen.name, pair.rejected.name))
        if rule == "most_different":
            found = sorted(found, key=_difference, reverse=True)[:1]
        pairs.extend(found[:per_problem])
    return pairs


def one_sided(answers: Iterable[ScoredAnswer]) -> tuple[int, int]:
    """(problems without a passing answer, problems without a failing one): neither gives a pair of right and wrong."""
    passed: dict[str, set[bool]] = defaultdict(set)
    for answer in answers:
        passed[answer.problem_id].add(answer.passed)
    return sum(True not in found for found in passed.values()), sum(False not in found for found in passed.values())


def _of_problem(answers: Sequence[ScoredAnswer], rule: PairRule) -> list[PreferencePair]:
    if rule == "right_wrong":
        return [PreferencePair(a, b) for a in answers if a.passed for b in answers if not b.passed]
    return [PreferencePair(a, b) for a in answers for b in answers if a.true_score > b.true_score]


def _difference(pair: PreferencePair) -> float:
    return pair.chosen.true_score - pair.rejected.true_score


def is_held_out(problem_id: str, share: float, seed: int) -> bool:
    """Whether a problem's pairs are kept out of training: about ``share`` of all problems are.

    It depends on nothing but id and seed, so that a problem which one reward model was judged by is never trained on by
    the next, whatever other problems have come.
    """
    return derive_seed("held-out-pairs", seed, problem_id) < share * 2.0**KEY_BITS


def part_held_out(
    pairs: Sequence[T], problem_id: Callable[[T], str], share: float, seed: int
) -> tuple[list[T], list[T]]:
    """(pairs to learn from, pairs to judge by), each in their order; one problem's lie all on one side."""
    out = [is_held_out(problem_id(pair), share, seed) for pair in pairs]
    sides = [[pair for pair, is_out in zip(pairs, out, strict=True) if is_out == side] for side in (False, True)]
    return sides[0], sides[1]
