"""A tokenizer for models trained from scratch: byte-level BPE whose tokens are whole phrases of the corpus.

A newline is a token of its own, so that tokens never span lines and a line's reward has its token; a digit is a token,
so that numbers are copied and not memorised; between them merges may run over spaces, so that a frequent line of code
costs one or two tokens. Every byte has a token: nothing is unknown.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

PAD_TOKEN, EOS_TOKEN = "<|pad|>", "<|end|>"
PAD_ID, EOS_ID = 0, 1
_MIN_VOCABULARY = 256 + 2
# ", then " joins the phrases of a specification: cut there, each phrase becomes a token instead of each pair of them.
_CUTS = r"\n|\d|, then "


def train_tokenizer(texts: Iterable[str], vocab_size: int = 1024) -> Tokenizer:
    """BPE over ``texts`` with the pad token at id 0 and the end token at id 1; the same for the same texts.

    Raises:
        ValueError: if the vocabulary has no room for all bytes.
    """
    if vocab_size < _MIN_VOCABULARY:
        raise ValueError(
            f"vocab_size must be at least {_MIN_VOCABULARY} (256 bytes and 2 special tokens), is {vocab_size}"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_CUTS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD_TOKEN, EOS_TOKEN],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path, *, max_tokens: int = 1024) -> None:
    """Write ``folder`` as Hugging Face's ``AutoTokenizer`` and vLLM read it.

    Args:
        max_tokens: longest sequence of the model that it belongs to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"eos_token": EOS_TOKEN, "pad_token": PAD_TOKEN}
    config = special | {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_tokens,
        "clean_up_tokenization_spaces": False,
    }
    for name, content in (("tokenizer_config.json", config), ("special_tokens_map.json", special)):
        (folder / name).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def vocabulary_digest(tokenizer: Any) -> str:
    """Equal for tokenizers that read token ids alike: scores of another vocabulary's ids would mean nothing."""
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    return hashlib.blake2b(repr(vocabulary).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
