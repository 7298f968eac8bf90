# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""Weights on their way out: buckets for the push to generators, and a Hugging Face folder."""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from learner.checkpoint import publish_folder
from learner.lora import plain_weights
from learner.parallel import SINGLE, Ranks

Bucket = list[tuple[str, Tensor]]


def weight_buckets(model: PreTrainedModel, bucket_bytes: int) -> Iterator[Bucket]:
    """All weights under their Hugging Face names, adapters merged, in buckets of about ``bucket_bytes``.

    On several ranks each gathers every weight, a bucket at a time; all must ask together.

    A tied weight comes once, under the name of the input embedding. Tensors are contiguous views or copies without
    gradient; the caller reads them before the next learner step. A tensor larger than the bucket comes alone.
    """
    bucket: Bucket = []
    size = 0
    for name, weight in plain_weights(model):
        tensor = weight.contiguous()
        if bucket and size + tensor.nbytes > bucket_bytes:
            yield bucket
            bucket, size = [], 0
        bucket.append((name, tensor))
        size += tensor.nbytes
    if bucket:
        yield bucket


def export_huggingface(
    model: PreTrainedModel,
    folder: str | Path,
    *,
    tokenizer: Any = None,
    dtype: torch.dtype | None = None,
    ranks: Ranks = SINGLE,
) -> None:
    """Writes a folder that ``AutoModelForCausalLM.from_pretrained`` loads; complete or not there.

    Args:
        model: the policy.
        folder: replaced if it exists.
        tokenizer: saved beside the model, if given.
        dtype: of the written weights; None: as they are.
        ranks: all gather, the first writes.
    """
    state: dict[str, Tensor] = {}
    for name, tensor in plain_weights(model):
        if ranks.is_first:  # the others only help to gather: none but the first holds the whole model
            state[name] = tensor.to("cpu", dtype or tensor.dtype)
    if ranks.is_first:
        folder = Path(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = folder.with_name(f"{folder.name}.partial-{os.getpid()}")
        if aside.exists():
            shutil.rmtree(aside)
        model.save_pretrained(aside, state_dict=state)
        if dtype is not None:  # transformers writes the live model's, and loads by what the config says
            config = copy.deepcopy(model.config)
            config.dtype = dtype
            config.save_pretrained(aside)
        if tokenizer is not None:
            tokenizer.save_pretrained(aside)
        publish_folder(aside, folder)
    ranks.wait()
