# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""Making and loading causal language models for training on packed rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)

from learner.attention import PACKED_ATTENTION, register_packed_attention
from learner.errors import ModelRefusedError, TokenizerMismatchError
from learner.model_config import NewModelConfig
from learner.policy import first_position

_EXPERT_FIELDS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "num_experts_per_tok")
# by which models drop within a function of theirs
_DROPOUT_FIELDS = ("attention_dropout", "activation_dropout", "dropout", "layerdrop")
# fields by which an architecture changes its logits after the output layer, with the value that changes nothing
_LOGIT_FIELDS = {"final_logit_softcapping": None, "logits_scaling": 1.0, "logit_scale": 1.0}


def new_causal_lm(
    config: NewModelConfig, *, vocab_size: int, eos_token_id: int, pad_token_id: int | None, seed: int
) -> PreTrainedModel:
    """A Llama with random float32 weights that depend on ``seed`` alone. The global random state is left as it was."""
    llama = llama_config(config, vocab_size=vocab_size, eos_token_id=eos_token_id, pad_token_id=pad_token_id)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(llama)
    return for_packed_rows(model)


def llama_config(
    config: NewModelConfig, *, vocab_size: int, eos_token_id: int | None = None, pad_token_id: int | None = None
) -> LlamaConfig:
    """The Hugging Face config of a new model."""
    heads = config.hidden_size // config.head_dim
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=heads,
        num_key_value_heads=config.num_key_value_heads or heads,
        intermediate_size=config.intermediate_size,
        max_position_embeddings=config.max_position_embeddings,
        tie_word_embeddings=config.tie_word_embeddings,
        initializer_range=config.initializer_range,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        bos_token_id=None,
        eos_token_id=eos_token_id,
        pad_token_id=pad_token_id,
    )


def load_causal_lm(folder: str | Path, *, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A dense Hugging Face causal LM from a local folder (or a name of the hub), ready for packed rows.

    Raises:
        ModelRefusedError: no such folder or no model in it, mixture of experts, or an architecture whose logits or
            attention the packed path can't reproduce.
    """
    try:
        config = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise ModelRefusedError(f"no Hugging Face model at {str(folder)!r}: {error}") from error
    refuse_unsupported(config)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    return for_packed_rows(model)


def load_backbone(folder: str | Path, *, max_tokens: int) -> PreTrainedModel:
    """The body of any encoder or decoder in a folder, for packed rows: what a scalar head is put on.

    Raises:
        ModelRefusedError: as ``load_causal_lm``, or the model has fewer than ``max_tokens`` positions.
    """
    try:
        config = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise ModelRefusedError(f"no Hugging Face model at {str(folder)!r}: {error}") from error
    if any(name.endswith("ForCausalLM") for name in config.architectures or ()):
        backbone: Any = load_causal_lm(folder).base_model
    else:
        refuse_unsupported(config)
        backbone = for_packed_rows(AutoModel.from_pretrained(folder, dtype=torch.float32))
    positions = getattr(config, "max_position_embeddings", max_tokens) - first_position(backbone)
    if positions < max_tokens:
        raise ModelRefusedError(
            f"the model at {str(folder)!r} has {positions} positions, fewer than max_tokens {max_tokens}: lower it"
        )
    return backbone


def load_tokenizer(folder: str | Path, model: PreTrainedModel) -> Any:
    """The tokenizer of a model's folder, checked against the model."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise TokenizerMismatchError(f"no tokenizer at {str(folder)!r}: {error}") from error
    check_tokenizer(tokenizer, model.config)
    return tokenizer


def check_tokenizer(tokenizer: Any, config: PreTrainedConfig) -> None:
    """Raises TokenizerMismatchError where ids could fall outside the embeddings or completions would never end."""
    if len(tokenizer) > config.vocab_size:
        raise TokenizerMismatchError(
            f"the tokenizer has {len(tokenizer)} tokens, the model's vocab_size is {config.vocab_size}"
        )
    if tokenizer.eos_token_id is None:
        raise TokenizerMismatchError("the tokenizer has no end-of-sequence token")
    ends = config.eos_token_id
    ends = ends if isinstance(ends, list | tuple) else [ends]
    if ends != [None] and tokenizer.eos_token_id not in ends:
        raise TokenizerMismatchError(
            f"the tokenizer's eos_token_id {tokenizer.eos_token_id} is not among the model's eos_token_id {ends}"
        )


def refuse_unsupported(config: PreTrainedConfig) -> None:
    """Raises ModelRefusedError for what the learner would train wrongly."""
    for part in (config, *(nested for nested in vars(config).values() if isinstance(nested, PreTrainedConfig))):
        for field in _EXPERT_FIELDS:
            if (getattr(part, field, None) or 0) > 1:
                raise ModelRefusedError(
                    f"model_type {config.model_type!r} is a mixture of experts ({field} = {getattr(part, field)}): "
                    "trainer and generator would route tokens differently; not supported until routing is replayed"
                )
    for field, neutral in _LOGIT_FIELDS.items():
        if getattr(config, field, neutral) not in (neutral, None):
            raise ModelRefusedError(
                f"model_type {config.model_type!r} post-processes its logits ({field}): not supported"
            )


def for_packed_rows(model: PreTrainedModel) -> PreTrainedModel:
    """Switches a model to packed attention, without dropout, in evaluation mode (gradients flow all the same)."""
    refuse_unsupported(model.config)
    register_packed_attention()
    model.set_attn_implementation(PACKED_ATTENTION)
    if getattr(model.config, "_attn_implementation", None) != PACKED_ATTENTION:
        raise ModelRefusedError(f"{type(model).__name__} does not take an attention function from outside")
    disable_dropout(model)
    return model.eval()


def disable_dropout(model: nn.Module) -> None:
    """PPO's ratio compares one network with itself: dropout would make it another one at each pass."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in _DROPOUT_FIELDS:
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def backbone_of(model: nn.Module) -> PreTrainedModel:
    """The Hugging Face model in a policy, a scalar-head model, or whatever holds one."""
    return next(module for module in model.modules() if isinstance(module, PreTrainedModel))


def num_parameters(model: nn.Module) -> int:
    """Parameters, tied ones counted once."""
    return sum(parameter.numel() for parameter in model.parameters())
