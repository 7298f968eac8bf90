"""Weight transport: how the trainer's weights reach a running generator. Four phases, as vLLM's own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from problems.identity import WeightsVersion

if TYPE_CHECKING:
    import torch

    Bucket = list[tuple[str, torch.Tensor]]


class WeightSender(Protocol):
    """The trainer's side. Publishes a version once; receivers are told where it lies."""

    def publish(self, version: WeightsVersion, buckets: Iterable[Bucket]) -> dict[str, str]:
        """Writes all buckets (Hugging Face parameter names, contiguous tensors) and returns a *ticket*: plain strings
        that tell a receiver where and what it is, its checksum included."""
        ...

    def retire(self, version: WeightsVersion) -> None:
        """Frees a version that no receiver needs any more."""
        ...


class WeightReceiver(Protocol):
    """A generator's side. The phases are called in this order, each under a time-out of the caller."""

    async def init(self) -> None: ...

    async def start(self, version: WeightsVersion) -> None:
        """Requests in flight are paused; no token is sampled until ``finish`` returns."""
        ...

    async def update(self, ticket: dict[str, str]) -> None:
        """Loads the published buckets into the engine's weights, in place; verifies the checksum."""
        ...

    async def finish(self, version: WeightsVersion) -> None:
        """The engine now samples with ``version``; requests in flight go on."""
        ...
