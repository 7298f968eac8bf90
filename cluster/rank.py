"""``crucible rerank``: programs of a file, ranked by a model with a scalar head. Needs no Ray and runs no program."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from actors.scorer import Scorer, ScoringConfig
from cluster.checks import refuse_other_readers, refuse_scores_without_a_choice
from cluster.config import PromptConfig
from cluster.errors import ConfigError
from cluster.json_lines import read_numbered, refuse_unwritable, write_lines
from cluster.tokenizers import LoadedTokenizer, load_tokenizer
from learner.model_config import ComputeConfig
from problems.prompting import render_prompt

_ROW_TOKENS = 16_384  # a longer answer is refused


class _Line(BaseModel):
    """A line of the file; what else stands in it is copied."""

    model_config = ConfigDict(extra="allow", strict=True)

    prompt: str
    programs: list[str] = Field(min_length=1)


def rank_command(model: Path, source: Path, output: Path, prompt: PromptConfig) -> int:
    """Writes each line of ``source`` to ``output`` with ``scores`` and ``ranking`` beside it; returns how many.

    A program is what a model writes after the prompt. ``ranking`` holds places in ``programs``, the best first; equal
    scores keep their order. Raises ConfigError (no scalar-head model or one that prefers nothing, a malformed line, an
    answer that is too long) before anything is written.
    """
    refuse_other_readers(model, f"--model {model}", "last_token")
    refuse_unwritable(output)
    lines = list(_read(source))
    scorer = Scorer(str(model), ScoringConfig(ComputeConfig(), _ROW_TOKENS, threads=os.cpu_count() or 1))
    loaded = load_tokenizer(model, prompt)
    if loaded.tokenizer.eos_token_id is None:
        raise ConfigError(f"--model {model}: its tokenizer has no end-of-sequence token, at which the score is read")
    ranked: list[dict[str, Any]] = []
    different: dict[tuple[str, str], float] = {}
    for number, line in lines:
        try:
            scores = scorer.score([_answer(loaded, line["prompt"], program) for program in line["programs"]])
        except ValueError as error:
            raise ConfigError(f"{source}, line {number}: {error}") from None
        different |= {(line["prompt"], program): score for program, score in zip(line["programs"], scores, strict=True)}
        best_first = np.argsort(-scores, kind="stable")
        ranked.append(line | {"scores": scores.tolist(), "ranking": best_first.tolist()})
    refuse_scores_without_a_choice(f"--model {model}", list(different.values()))
    write_lines(output, ranked)
    return len(ranked)


def _read(source: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in read_numbered(source):
        try:
            yield number, _Line.model_validate_json(line).model_dump()
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"])) or "the line"
            raise ConfigError(f"{source}, line {number}: {field}: {first['msg']}") from None


def _answer(loaded: LoadedTokenizer, prompt: str, program: str) -> tuple[Any, Any]:
    """(prompt ids, completion ids) as a model that wrote the program would have left them: the end token last."""
    completion: Sequence[int] = loaded.tokenizer.encode(program, add_special_tokens=False)
    ids = [*completion, loaded.tokenizer.eos_token_id]
    return np.array(render_prompt(prompt, loaded.style, loaded.tokenizer), np.int32), np.array(ids, np.int32)
