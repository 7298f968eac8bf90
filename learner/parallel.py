# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""One learner over several ranks (FSDP2): each sees all trajectories, computes a share of the rows, holds a shard.

    rank 0   rows 0, 2, 4     all ranks lay out the same rows from the same trajectories; a rank computes every
    rank 1   rows 1, 3, .     count-th of them. A rank that has one row fewer passes a row of weight 0 in its place,
                              since gathering a layer's weights takes all ranks.

One rank is the same code without communication.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from learner.packing import PackedRow, TokenSequence, pack

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True, slots=True)
class Ranks:
    """Attributes:
    index: of this process among the learner's, from 0.
    count: processes of the learner.
    mesh: what parameters are sharded over; None on one rank.
    """

    index: int = 0
    count: int = 1
    mesh: DeviceMesh | None = None

    @staticmethod
    def joined(device_type: str = "cpu") -> Ranks:
        """Those of the process group that this process has joined; one rank if it has joined none."""
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return Ranks()
        count = dist.get_world_size()
        return Ranks(dist.get_rank(), count, init_device_mesh(device_type, (count,)))

    @property
    def is_first(self) -> bool:
        return self.index == 0

    def total(self, tensor: Tensor) -> Tensor:
        """Sum over the ranks, on every rank; in place."""
        if self.count > 1:
            dist.all_reduce(tensor)
        return tensor

    def largest(self, tensor: Tensor) -> Tensor:
        """Largest over the ranks, on every rank; in place."""
        if self.count > 1:
            dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return tensor

    def any_of(self, *answers: bool) -> list[bool]:
        """Each is true if it is for any rank, so that all decide alike: their clocks differ, say."""
        return [bool(answer) for answer in self.largest(torch.tensor([float(answer) for answer in answers]))]

    def wait(self, group: dist.ProcessGroup | None = None) -> None:
        """Until all ranks are here; ``group``: over which they say so, None: the one that training uses."""
        if self.count > 1:
            dist.barrier(group)

    def rows(self, sequences: Sequence[TokenSequence], row_tokens: int) -> Iterator[tuple[PackedRow, bool]]:
        """This rank's rows, with False for one that only keeps step with the others and must count for nothing.

        All ranks get equally many, of nearly equal cost.
        """
        rows = pack(sequences, row_tokens, multiple_of=self.count)
        for start in range(0, len(rows), self.count):
            mine = start + self.index
            yield (rows[mine], True) if mine < len(rows) else (rows[0], False)


SINGLE = Ranks()


def shard(module: nn.Module, ranks: Ranks, *, values: Mapping[str, Tensor] | None = None) -> None:
    """Spreads a model's parameters over the ranks, layer by layer; nothing on one rank.

    Embeddings, final norm and output layer form the group of ``module`` itself, so that tied weights stay tied.

    Args:
        module: whole, or a copy by ``to_be_sharded``.
        ranks: all shard together.
        values: for such a copy the whole parameters that it is a copy of, under its own names.
    """
    if ranks.mesh is None:
        return
    own = _own_values(module) if values is not None else {}
    for layer in decoder_layers(module):
        fully_shard(layer, mesh=ranks.mesh)
    fully_shard(module, mesh=ranks.mesh)
    if values is not None:
        module.to_empty(device=next(iter(values.values())).device)
        _fill(module, own | dict(values))


def _own_values(module: nn.Module) -> dict[str, Tensor]:
    """Copies of what a copy by ``to_be_sharded`` has beside the values to come: its buffers, a new head."""
    return {name: tensor.detach().clone() for name, tensor in _tensors(module) if not tensor.is_meta}


def to_be_sharded(module: Module, ranks: Ranks) -> Module:
    """A copy for ``shard``. On several ranks it has no values yet: those come shard by shard, so that no rank holds
    the whole model twice."""
    hollow: dict[int, Any] = {}
    if ranks.mesh is not None:
        for parameter in module.parameters():
            hollow[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)
    return copy.deepcopy(module, hollow)


@torch.no_grad()
def _fill(module: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Writes whole values into a module, of parameters this rank's shard."""
    for name, tensor in _tensors(module):
        value = values[name].detach()
        if isinstance(tensor, DTensor):  # every rank has the whole and takes its own part: nothing is sent
            value = distribute_tensor(value, tensor.device_mesh, tensor.placements, src_data_rank=None)
        tensor.copy_(value)


def _tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]


def reshard(module: nn.Module) -> None:
    """Each rank holds its shards and no more. A pass without a backward pass leaves embeddings and output layer
    gathered on every rank, where torch awaits a gradient."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def decoder_layers(module: nn.Module) -> list[nn.Module]:
    """The blocks of the longest list of modules: a transformer's layers."""
    lists = [child for child in module.modules() if isinstance(child, nn.ModuleList)]
    return list(max(lists, key=len)) if lists else []


def whole(tensor: Tensor) -> Tensor:
    """A sharded tensor gathered; all ranks must ask together. Others are returned as they are."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """This rank's shard; writing to it changes the parameter."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
