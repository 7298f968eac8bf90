"""A model's tokenizer, with what a run derives from it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.config import PromptConfig
from cluster.errors import ConfigError
from problems.prompting import PromptStyle, TokenBytes


@dataclass(frozen=True, slots=True)
class LoadedTokenizer:
    """A tokenizer of transformers, the bytes of its tokens, and how prompts are rendered with it."""

    tokenizer: Any
    token_bytes: TokenBytes
    style: PromptStyle


def load_tokenizer(model: Path, prompt: PromptConfig) -> LoadedTokenizer:
    """The tokenizer in a model's folder. Raises ConfigError if no token ends a completion."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(model))
    style = PromptStyle(prompt.template, _eos_token_ids(model, tokenizer), prompt.system, prompt.stop)
    return LoadedTokenizer(tokenizer, TokenBytes.of(tokenizer), style)


def _eos_token_ids(model: Path, tokenizer: Any) -> tuple[int, ...]:
    """Of the tokenizer and of the generation config, ascending."""
    ids = {tokenizer.eos_token_id} if tokenizer.eos_token_id is not None else set[int]()
    path = model / "generation_config.json"
    if path.exists():
        named = json.loads(path.read_text()).get("eos_token_id")
        ids |= set(named if isinstance(named, list) else [named] if named is not None else [])
    if not ids:
        raise ConfigError(f"model {model} names no end-of-sequence token; its completions would never end")
    return tuple(sorted(ids))
