"""Who a trajectory is, which seed it samples with, and which weights wrote it."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

_SEED_BITS = 63  # fits the signed 64-bit seed of every sampler that we drive
_VERSION = re.compile(r"L(\d+)\.S(\d+)")


def derive_seed(*parts: str | int) -> int:
    """A seed in [0, 2**63) that depends on ``parts`` and on nothing else (not on process, order or machine).

    1 and "1" are different parts; a string enum counts as its string. Lengths stand in front, so that no two different
    rows of parts are written alike.
    """
    tagged = [("s" if isinstance(part, str) else "i", f"{part}") for part in parts]
    text = "".join(f"{tag}{len(part)}:{part}" for tag, part in tagged)
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> (64 - _SEED_BITS)


@dataclass(frozen=True, slots=True, order=True)
class TrajectoryId:
    """The identity of one trajectory; everything random about it is derived from this and from nothing else.

    Attributes:
        run: name of the run.
        stage: name of the stage within the run.
        epoch: pass over the problem set, from 0.
        problem_id: the problem's id.
        sample_index: which of the N completions of this prompt, from 0.
        attempt: 0, and one more each time the work was issued anew *with a new draw*. Work that is only moved to
            another actor because its holder died keeps its attempt, and so its seed.
    """

    run: str
    stage: str
    epoch: int
    problem_id: str
    sample_index: int
    attempt: int = 0

    def sampling_seed(self) -> int:
        """The seed of the sampler, in [0, 2**63)."""
        return derive_seed(
            "trajectory", self.run, self.stage, self.epoch, self.problem_id, self.sample_index, self.attempt
        )

    def __str__(self) -> str:
        return f"{self.run}/{self.stage}/{self.epoch}/{self.problem_id}/{self.sample_index}/{self.attempt}"


@dataclass(frozen=True, slots=True, order=True)
class WeightsVersion:
    """Version of the policy's weights: ``lineage`` grows at each rollback to a checkpoint, ``step`` at each update.

    Two versions of different lineage are never the same weights, even at one step.
    """

    lineage: int
    step: int

    def next(self) -> WeightsVersion:
        """The version after one more optimizer step in the same lineage."""
        return WeightsVersion(self.lineage, self.step + 1)

    def __str__(self) -> str:
        return f"L{self.lineage}.S{self.step}"

    @staticmethod
    def parse(text: str) -> WeightsVersion:
        """The inverse of ``str``. Raises ValueError for anything else."""
        match = _VERSION.fullmatch(text)
        if match is None:
            raise ValueError(f"weights version {text!r} is not of the form L<lineage>.S<step>")
        return WeightsVersion(int(match[1]), int(match[2]))
