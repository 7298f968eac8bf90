"""What runs inside vLLM's worker process; vLLM imports it there by name, as ``worker_extension_cls``.

Two things come with the import: the engine's process ends when its owner does, and the weight-transfer engine ``shm``
is known. Nothing of Crucible imports this module; ``actors.engine`` only names it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from actors.owner import end_with_owner

BACKEND = "shm"


@dataclass
class ShmInitInfo(WeightTransferInitInfo):
    """Nothing to agree upon: each update says where it lies."""


@dataclass
class ShmUpdateInfo(WeightTransferUpdateInfo):
    """Files of one published version, in order; already verified by the owner of the engine."""

    files: list[str]


class ShmWeightEngine(WeightTransferEngine[ShmInitInfo, ShmUpdateInfo]):
    """Loads published files into the live model, in place.

    vLLM takes the old weights apart when a layer-wise reload begins. That is put off to the first file, so that an
    update that is refused before leaves the engine as it was.
    """

    init_info_cls = ShmInitInfo
    update_info_cls = ShmUpdateInfo

    def init_transfer_engine(self, init_info: ShmInitInfo) -> None:
        pass

    def start_weight_update(self) -> None:
        self._expected: set[str] = set()
        self._loaded: set[str] = set()

    def update_weights(self, update_info: dict[str, Any]) -> None:
        # The base class synchronises an accelerator here, which raises on a CPU.
        self.receive_weights(self.parse_update_info(update_info))
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: ShmUpdateInfo) -> None:
        if not self._expected:
            self._expected = {name for name, _ in self.model.named_parameters()}
            self._packed = {module: module.cpu_linear for module in self.model.modules() if _is_packed(module)}
            initialize_layerwise_reload(self.model)
        for file in update_info.files:
            with safe_open(Path(file), framework="pt") as tensors:
                weights = ((name, tensors.get_tensor(name)) for name in tensors.keys())  # noqa: SIM118
                self._loaded |= cast(Any, self.model).load_weights(weights) or set()

    def finish_weight_update(self) -> None:
        if not self._expected:
            return
        finalize_layerwise_reload(self.model, self.model_config)
        # A layer without new weights silently keeps its old ones: that would be a mixture of two versions.
        if missing := sorted(self._expected - self._loaded):
            raise ValueError(f"{len(missing)} parameters were not in the published files: {', '.join(missing[:5])}")
        _repack_cpu_linears(self._packed)

    def shutdown(self) -> None:
        pass


def _is_packed(module: torch.nn.Module) -> bool:
    """Whether the CPU build multiplies with a packed copy of its weight. Those without a weight of their own beside it
    are packed as they are loaded."""
    weight = getattr(module, "weight", None)
    return (
        hasattr(module, "cpu_linear") and weight is not None and weight.numel() > 0 and hasattr(module, "quant_method")
    )


def _repack_cpu_linears(before: Mapping[torch.nn.Module, Any]) -> None:
    """Renews the packed copies that the reload has left as they were.

    A tied head's is made from the embedding, whose reload does not know of it: without this the engine silently samples
    from the old head. An engine waits meanwhile, so what the reload has packed is not packed again.
    """
    for module, packed in before.items():
        if module.cpu_linear is packed:
            cast(Any, module).quant_method.process_weights_after_loading(module)


class WorkerExtension:
    """Mixed into vLLM's worker. Empty: the import is the point."""


end_with_owner()
if BACKEND not in WeightTransferEngineFactory._registry:
    WeightTransferEngineFactory.register_engine(BACKEND, ShmWeightEngine)
