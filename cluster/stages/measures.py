"""The three measures of RLCF beside pass@1 (arXiv 2305.18341): how many programs compile, run, and pass their tests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from cluster.journal import JournalEntry
from cluster.rollout import Group
from cluster.statistics import mean_over_problems
from problems.lexing import LANGUAGES, code_size
from problems.problem import CompletionStyle, Problem
from sandbox.verdict import Outcome

_RUN_TO_ITS_END = {Outcome.PASSED, Outcome.WRONG_ANSWER}


def measures_of(groups: Sequence[Group]) -> dict[str, Any]:
    """Figures of judged answers, each a mean over problems with its interval.

    ``compiles``: share that the compiler takes. ``executes``: share that also runs to an answer, right or wrong, with
    no error and within its limits. ``passes``: share that passes all tests. ``compile_errors``: of those that do not
    compile, how many have which class of first error. ``code_tokens``: lexemes of the answer that are no comments,
    mean over all of Java and Python.
    """
    judged = [(group.problem, [entry for entry in group.entries if _is_judged(entry)]) for group in groups]
    judged = [(problem, entries) for problem, entries in judged if entries]
    if not judged:
        return {}
    errors = Counter(entry.compile_error for _, entries in judged for entry in entries if entry.compile_error)
    sizes = [
        answer_size(problem, entry) for problem, entries in judged for entry in entries if problem.language in LANGUAGES
    ]
    return {
        "compiles": _share(judged, set(Outcome) - {Outcome.COMPILE_ERROR}),
        "executes": _share(judged, _RUN_TO_ITS_END),
        "passes": _share(judged, {Outcome.PASSED}),
        "compile_errors": dict(errors.most_common()),
        **({"code_tokens": fmean(sizes)} if sizes else {}),
    }


def measures_by_source(groups: Sequence[Group]) -> dict[str, dict[str, Any]]:
    """``measures_of`` each data set, by ``Problem.source``; sets of which nothing was judged are left out."""
    sets: dict[str, list[Group]] = {}
    for group in groups:
        sets.setdefault(group.problem.source, []).append(group)
    measured = {source: measures_of(of_it) for source, of_it in sets.items()}
    return {source: figures for source, figures in measured.items() if figures}


def shares_of(figures: dict[str, Any]) -> dict[str, float]:
    """The three measures' means, by name; nothing if nothing was judged."""
    return {what: figures[what]["mean"] for what in ("compiles", "executes", "passes") if figures}


def answer_size(problem: Problem, entry: JournalEntry) -> int:
    """Lexemes that are no comments in what the model wrote."""
    own = entry.program
    if problem.completion_style is CompletionStyle.CONTINUE:
        own = own.removeprefix(problem.prompt.encode())
    return code_size(problem.language, own)


def _is_judged(entry: JournalEntry) -> bool:
    return entry.outcome not in {"", "cut", Outcome.INFRASTRUCTURE_ERROR}


def _share(judged: Sequence[tuple[Problem, Sequence[JournalEntry]]], outcomes: set[Outcome]) -> dict[str, Any]:
    shares = [sum(entry.outcome in outcomes for entry in entries) / len(entries) for _, entries in judged]
    return asdict(mean_over_problems(shares))
