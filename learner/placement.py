# pyright: reportUnknownMemberType=false
"""Where models and optimizer states lie: on the device that computes, or in host memory until they are needed.

On a machine without an accelerator both are the same memory and nothing moves.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import nn

Place = Literal["device", "host"]
HOST = torch.device("cpu")


def compute_device(name: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """The device of a field; ``auto`` is this process's GPU where it sees one.

    Raises ValueError for ``cuda`` on a machine without one.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ValueError("compute.device is 'cuda', but this process sees no GPU: use 'cpu' or 'auto'")
    return torch.device("cuda", torch.cuda.current_device()) if available and name != "cpu" else HOST


def settle(module: nn.Module, device: torch.device, place: Place = "device") -> None:
    """Puts a model where it waits between its turns."""
    module.to(device if place == "device" else HOST)


@contextmanager
def at_work(module: nn.Module | None, device: torch.device, place: Place) -> Generator[None]:
    """A model on the device for as long as the block runs; then back where it waits. Values are not changed."""
    if module is None or place == "device":
        yield
        return
    module.to(device)
    try:
        yield
    finally:
        module.to(HOST)
