# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""Variable-length trajectories as packed rows: no padding passes through a model.

    sequences   a: p p a0 a1      b: p b0 b1 b2       (p prompt, not trained)
    row         input_ids     p  p  a0 a1 | p  b0 b1 b2
                position_ids  0  1  2  3  | 0  1  2  3
                predicting       ^  ^       ^  ^  ^         the hidden state here predicts the token to the right
                targets          a0 a1      b0 b1 b2
    flat        a0 a1 b0 b1 b2                        one place for each trained token (learner.ragged)

T tokens in a row, C of them trained.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from learner.errors import EmptyCompletionError, TokenOutsideVocabularyError, TooLongError
from learner.trajectory import Trajectory


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """A token sequence to be passed through a model.

    Attributes:
        name: who it is, for errors.
        ids: int64 [T].
        trained: bool [T], True at the tokens whose log-probability or value is wanted; never the first.
    """

    name: str
    ids: NDArray[np.int64]
    trained: NDArray[np.bool_]

    @property
    def num_tokens(self) -> int:
        return len(self.ids)

    @property
    def num_trained(self) -> int:
        return int(self.trained.sum())


@dataclass(frozen=True, slots=True)
class PackedRow:
    """Sequences laid end to end; see the drawing above.

    Attributes:
        members: index of each sequence in the caller's list, in the row's order.
        lengths: tokens of each.
        input_ids: [T].
        position_ids: [T], from 0 in each sequence.
        predicting: [C], places in the row whose hidden state predicts a trained token.
        targets: [C], those tokens.
        flat: [C], their places in the flat layout of all the caller's sequences.
        ends: [M], place in the row of each sequence's last token.
    """

    members: tuple[int, ...]
    lengths: tuple[int, ...]
    input_ids: Int[Tensor, " T"]
    position_ids: Int[Tensor, " T"]
    predicting: Int[Tensor, " C"]
    targets: Int[Tensor, " C"]
    flat: Int[Tensor, " C"]
    ends: Int[Tensor, " M"]

    @property
    def num_tokens(self) -> int:
        return len(self.input_ids)

    def to(self, device: torch.device) -> PackedRow:
        """The same row on a device; itself if it is there already."""
        if self.input_ids.device == device:
            return self
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: x.to(device) for name, x in values.items() if isinstance(x, Tensor)})

    @property
    def trained_lengths(self) -> Int[Tensor, " M"]:
        """Trained tokens of each sequence."""
        return torch.searchsorted(self.ends, self.predicting).bincount(minlength=len(self.lengths))


def as_sequence(trajectory: Trajectory) -> TokenSequence:
    """All turns of a trajectory, end to end; trained where its loss mask says so.

    Raises EmptyCompletionError if no token is trained.
    """
    name = str(trajectory.id)
    prompt_and_completion = [(turn.prompt_ids, turn.completion_ids) for turn in trajectory.turns]
    ids = np.concatenate([part for pair in prompt_and_completion for part in pair]).astype(np.int64)
    trained = np.concatenate([
        part for turn in trajectory.turns for part in (np.zeros(len(turn.prompt_ids), dtype=np.bool_), turn.loss_mask)
    ])  # fmt: skip
    if not trained.any():
        raise EmptyCompletionError(name, "no token to train")
    if trained[0]:
        raise ValueError(f"trajectory {name}: its first token has no context to be predicted from (empty prompt)")
    return TokenSequence(name, ids, trained)


def check_length(sequence: TokenSequence, limit: int) -> None:
    """Raises TooLongError for a sequence of more than ``limit`` tokens."""
    if sequence.num_tokens > limit:
        raise TooLongError(sequence.name, f"{sequence.num_tokens} tokens, limit {limit}")


def check_tokens(sequence: TokenSequence, vocab_size: int) -> None:
    """Raises TokenOutsideVocabularyError for an id that a model of so many tokens has no embedding for."""
    outside = (sequence.ids < 0) | (sequence.ids >= vocab_size)
    if outside.any():
        bad = int(sequence.ids[outside][0])
        raise TokenOutsideVocabularyError(sequence.name, f"token id {bad} outside the vocabulary of {vocab_size}")


def fingerprint(sequences: Sequence[TokenSequence]) -> str:
    """Of tokens and of which are trained, in order; names do not count."""
    digest = hashlib.blake2b(digest_size=8)
    for sequence in sequences:
        digest.update(f"{len(sequence.ids)} {len(sequence.trained)} ".encode())
        digest.update(sequence.ids.tobytes())
        digest.update(sequence.trained.tobytes())
    return digest.hexdigest()


def pack(sequences: Sequence[TokenSequence], row_tokens: int, *, multiple_of: int = 1) -> list[PackedRow]:
    """Packs all sequences into as few rows as need be, of nearly equal cost, each of at most ``row_tokens`` tokens.

    Their number is a multiple of ``multiple_of`` where there are sequences enough, so that ranks get equally many.

    Raises TooLongError for a sequence that fits no row.
    """
    for sequence in sequences:
        check_length(sequence, row_tokens)
    trained = np.array([sequence.num_trained for sequence in sequences], dtype=np.int64)
    starts = np.cumsum(trained) - trained
    rows = assign([sequence.num_tokens for sequence in sequences], row_tokens, multiple_of=multiple_of)
    return [_row(sequences, members, starts) for members in rows]


def assign(costs: Sequence[int], limit: int, *, multiple_of: int = 1) -> list[tuple[int, ...]]:
    """Spreads items over rows of cost at most ``limit``; the fewest rows the heuristic finds, then balanced.

    Longest first into the emptiest row, with one row more each time that fails: within 4/3 of the ideal balance, and
    deterministic (ties by index). Members of a row are ascending.
    """
    if not costs:
        return []
    order = sorted(range(len(costs)), key=lambda index: (-costs[index], index))
    num_rows = -(-sum(costs) // limit)
    num_rows += -num_rows % multiple_of
    while True:
        rows: list[list[int]] = [[] for _ in range(num_rows)]
        loads = [(0, row) for row in range(num_rows)]  # a heap: the emptiest first, of equals the first
        for index in order:
            load, row = loads[0]
            heapq.heapreplace(loads, (load + costs[index], row))
            rows[row].append(index)
        if max(loads)[0] <= limit:
            return [tuple(sorted(row)) for row in rows if row]
        num_rows += multiple_of


def _row(sequences: Sequence[TokenSequence], members: Sequence[int], starts: NDArray[np.int64]) -> PackedRow:
    chosen = [sequences[index] for index in members]
    lengths = tuple(sequence.num_tokens for sequence in chosen)
    trained = np.concatenate([sequence.trained for sequence in chosen]).nonzero()[0]
    ids = np.concatenate([sequence.ids for sequence in chosen])
    flat = np.concatenate([starts[i] + np.arange(s.num_trained) for i, s in zip(members, chosen, strict=True)])
    positions = np.concatenate([np.arange(length) for length in lengths])
    return PackedRow(
        members=tuple(members),
        lengths=lengths,
        input_ids=torch.from_numpy(ids),
        position_ids=torch.from_numpy(positions),
        predicting=torch.from_numpy(trained - 1),
        targets=torch.from_numpy(ids[trained]),
        flat=torch.from_numpy(flat),
        ends=torch.from_numpy(np.cumsum(lengths) - 1),
    )
