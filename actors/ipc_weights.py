"""Weights within one GPU that trainer and generator share in turns, by CUDA's handles of memory. Never run with a GPU.

    trainer:    publish -> a copy on the device -> its handles, in the ticket
    generator:  start -> update(ticket): vLLM's backend ``ipc`` maps that memory and loads from it -> finish

Not vLLM's own trainer side (0.32, ``IPCTrainerWeightTransferEngine``), which calls the engine from within the trainer:
here a ticket travels as with every other transport, and whoever holds one may load at any time. The copy stays until
the next version, so that the trainer can go on. The engine's side is vLLM's, unchanged.
"""

from __future__ import annotations

import base64
import json
import pickle
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from problems.identity import WeightsVersion

if TYPE_CHECKING:
    import torch

    from actors.weights import Bucket

TRANSPORT = "ipc"

Export = Callable[["torch.Tensor"], dict[str, tuple[Any, ...]]]
"""Tensor -> the GPU's UUID and what rebuilds the tensor in another process that sees this GPU."""


def export(tensor: torch.Tensor) -> dict[str, tuple[Any, ...]]:
    """What vLLM's engine side takes: the arguments of torch's ``rebuild_cuda_tensor``, by the GPU's UUID."""
    import torch
    from torch.multiprocessing.reductions import reduce_tensor

    _, arguments = reduce_tensor(tensor)
    return {str(torch.cuda.get_device_properties(tensor.device).uuid): arguments}


class IpcSender:
    """The trainer's side: a WeightSender.

    Args:
        export: makes the handles.
        device: where the copy lies.
    """

    def __init__(self, export: Export = export, device: str = "cuda") -> None:
        self._export = export
        self._device = device
        self._published: tuple[str, list[tuple[str, torch.Tensor]]] = ("", [])

    def publish(self, version: WeightsVersion, buckets: Iterable[Bucket]) -> dict[str, str]:
        """Copies the weights aside on their device and returns a ticket with the handles of the copy."""
        self.close()  # first: the device need not hold two copies
        tensors = [
            (name, tensor.detach().to(self._device, copy=True).contiguous())
            for bucket in buckets
            for name, tensor in bucket
        ]
        self._published = str(version), tensors
        handles = pickle.dumps([self._export(tensor) for _, tensor in tensors])
        return {
            "transport": TRANSPORT,
            "version": str(version),
            "handles": base64.b64encode(handles).decode(),
            "names": json.dumps([name for name, _ in tensors]),
            "dtype_names": json.dumps([str(tensor.dtype).removeprefix("torch.") for _, tensor in tensors]),
            "shapes": json.dumps([list(tensor.shape) for _, tensor in tensors]),
        }

    def retire(self, version: WeightsVersion) -> None:
        """Frees a version's copy."""
        if self._published[0] == str(version):
            self._published = ("", [])

    def close(self) -> None:
        """Frees everything."""
        self._published = ("", [])
