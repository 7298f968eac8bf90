"""``crucible evaluate``: one evaluation as a run of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from cluster.actor_config import ScorersConfig
from cluster.config import RunConfig
from cluster.inputs import problems_of
from cluster.recipe import config_of
from cluster.run_folder import digest
from cluster.stage_config import ProblemSource
from cluster.statistics import Estimate

_CHOICES = {"pass@1": "pass_at_1", "random@k": "random", "reranked@k": "reranked", "oracle pass@k": "oracle"}


def evaluation_of(stage: dict[str, Any], overrides: Sequence[str]) -> RunConfig:
    """A run of one ``evaluate`` stage, named by what it does unless ``overrides`` name it.

    Engines and scorers take as many tokens as prompt and answer may have, and engines look for stop strings where a
    problem has any. Raises ConfigError.
    """
    sampling = stage["sampling"]
    sources = [ProblemSource(spec=problem["spec"]) for problem in stage["problems"]]
    problems = problems_of(sources)
    languages = sorted({problem.language for problem in problems})
    stop_strings = any(problem.stop_strings for problem in problems)
    longest = sampling["max_prompt_tokens"] + sampling["max_new_tokens"]
    data = {
        "name": f"evaluate-{digest(stage)}",
        "generators": {
            "count": 1,
            "engine": {"max_model_len": longest, "stop_strings": stop_strings},
        },
        "scorers": {"row_tokens": max(longest, ScorersConfig().row_tokens)},
        "executors": {"sandbox": {"languages": languages}},
        "stages": [{"kind": "evaluate", "name": "evaluate", **stage}],
    }
    return config_of(data, overrides, "evaluate")


def choices_table(figures: Mapping[str, Any], samples: int) -> Table:
    """For each language and for all: what each way to choose is worth, and what it takes.

    Seconds of wall time: one sample's for pass@1 and random, all samples' and the scoring's for reranked, and for the
    oracle those of all samples, which it executes.
    """
    table = Table("language", "choice", "share that passes", "seconds", box=None, title=f"k = {samples}")
    rows = {name: row for name, row in figures.items() if name not in ("seconds", "all")}
    if len(rows) > 1:
        rows["all"] = figures["all"]
    for language, row in rows.items():
        taken = row["seconds"]
        seconds = (taken["one_sample"], taken["one_sample"], taken["samples"] + taken["scoring"], taken["samples"])
        for (label, key), spent in zip(_CHOICES.items(), seconds, strict=True):
            table.add_row(language, label, str(Estimate(**row[key])), f"{spent:.1f}")
    return table
