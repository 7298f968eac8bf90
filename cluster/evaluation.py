"""``crucible evaluate``: one evaluation as a run of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cluster.config import RunConfig
from cluster.inputs import problems_of
from cluster.recipe import config_of
from cluster.run_folder import digest
from cluster.stage_config import ProblemSource


def evaluation_of(stage: dict[str, Any], overrides: Sequence[str]) -> RunConfig:
    """A run of one ``evaluate`` stage, named by what it does unless ``overrides`` name it.

    Engines take as many tokens as prompt and answer may have. Raises ConfigError.
    """
    sampling = stage["sampling"]
    sources = [ProblemSource(spec=problem["spec"]) for problem in stage["problems"]]
    languages = sorted({problem.language for problem in problems_of(sources)})
    data = {
        "name": f"evaluate-{digest(stage)}",
        "generators": {
            "count": 1,
            "engine": {"max_model_len": sampling["max_prompt_tokens"] + sampling["max_new_tokens"]},
        },
        "executors": {"sandbox": {"languages": languages}},
        "stages": [{"kind": "evaluate", "name": "evaluate", **stage}],
    }
    return config_of(data, overrides, "evaluate")
