"""The one prompt renderer: SFT, RL and evaluation show the model the same token ids."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol


class Tokenizer(Protocol):
    """What the renderer needs of a Hugging Face tokenizer."""

    def encode(self, text: str, *, add_special_tokens: bool = ...) -> list[int]: ...

    def apply_chat_template(self, conversation: Any, **kwargs: Any) -> Any: ...


@dataclass(frozen=True, slots=True)
class PromptStyle:
    """How prompts are rendered.

    Attributes:
        template: ``plain`` (the problem's prompt as it is) or ``chat`` (the tokenizer's chat template).
        system: system message of the chat template; empty for none.
        stop: strings that end a completion; the string itself is not part of it.
        eos_token_ids: ids that end a completion; the id is part of it and is trained.
    """

    template: str
    eos_token_ids: tuple[int, ...]
    system: str = ""
    stop: tuple[str, ...] = ()

    def fingerprint(self) -> str:
        """Sixteen hex digits; written into every checkpoint and compared before a model is used."""
        return hashlib.blake2b(json.dumps(asdict(self), sort_keys=True).encode(), digest_size=8).hexdigest()


def render_prompt(prompt: str, style: PromptStyle, tokenizer: Tokenizer) -> list[int]:
    """Token ids that the model is given for a problem's ``prompt``."""
    if style.template == "plain":
        return tokenizer.encode(prompt, add_special_tokens=False)
    if style.template != "chat":
        raise ValueError(f"prompt template {style.template!r} is neither 'plain' nor 'chat'")
    messages = [{"role": "user", "content": prompt}]
    if style.system:
        messages.insert(0, {"role": "system", "content": style.system})
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
    return list(ids)


def _gpt2_byte_alphabet() -> dict[str, int]:
    """Character -> byte of byte-level BPE: printable bytes stand for themselves, the rest are moved past U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {chr(byte): byte for byte in printable}
    moved = (byte for byte in range(256) if byte not in set(printable))
    alphabet.update({chr(0x100 + offset): byte for offset, byte in enumerate(moved)})
    return alphabet


class TokenBytes:
    """The bytes that each token id stands for.

    Byte-level BPE (GPT-2, Qwen, Llama 3) and SentencePiece with byte fallback (Llama 2, Mistral) are understood.
    Special tokens stand for no bytes, other added tokens for their own text.
    """

    def __init__(
        self, vocabulary: Mapping[str, int], special_ids: Collection[int], added_ids: Collection[int] = ()
    ) -> None:
        alphabet = _gpt2_byte_alphabet()
        special, added = set(special_ids), set(added_ids)
        byte_level = any("Ġ" in token or "Ċ" in token for token in vocabulary)
        self._pieces: dict[int, bytes] = {}
        for token, index in vocabulary.items():
            if index in special:
                self._pieces[index] = b""
            elif index in added:
                self._pieces[index] = token.encode()
            elif byte_level:
                self._pieces[index] = bytes(alphabet[char] for char in token)
            elif len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
                self._pieces[index] = bytes([int(token[3:5], 16)])
            else:
                self._pieces[index] = token.replace("\u2581", " ").encode()
        self.vocab_size = len(self._pieces)

    @staticmethod
    def of(tokenizer: Any) -> TokenBytes:
        """For a Hugging Face tokenizer."""
        added = tokenizer.added_tokens_decoder
        # all_special_ids knows the named ones only (end, padding); tokens merely flagged as special are skipped too.
        special = {*tokenizer.all_special_ids, *(index for index, token in added.items() if token.special)}
        return TokenBytes(tokenizer.get_vocab(), special, set(added))

    def pieces(self, ids: Sequence[int]) -> list[bytes]:
        """Bytes of each token. An id outside the vocabulary (a padded embedding row) stands for nothing."""
        return [self._pieces.get(int(index), b"") for index in ids]

    def decode(self, ids: Sequence[int]) -> bytes:
        """The completion's bytes: exactly what its tokens say, without any clean-up of spaces."""
        return b"".join(self.pieces(ids))
