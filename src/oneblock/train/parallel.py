"""Several processes for one block, each with its part of every batch. torchrun starts them.

``"ddp"`` gives every process the whole block and averages gradients (Li et al., https://arxiv.org/abs/2006.15704);
``"fsdp"`` also cuts weights, gradients, averages and moments into shards, one for each process (PyTorch's
``fully_shard``; Zhao et al., https://arxiv.org/abs/2304.11277). Blocks still exchange nothing: every block has a
process group of its own.

Checkpoints hold whole tensors, however many processes wrote them: a block trained by two processes goes on with one,
or with eight.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from oneblock.blockwise import BlockDenoiser

Kind = Literal["ddp", "fsdp"]


@dataclass(frozen=True)
class Ranks:
    """The processes that train one block together, and which of them this one is.

    Args:
        kind: what they share out; None is a process alone, which creates no process group.
        rank, size: this process, 0 to size - 1; process 0 writes the files.
    """

    kind: Kind | None = None
    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def wrap(self, denoiser: BlockDenoiser, device: torch.device, precision: str) -> nn.Module:
        """The module whose forward pass the processes run together; ``denoiser`` keeps the parameters."""
        if self.kind == "ddp":
            return nn.parallel.DistributedDataParallel(denoiser, gradient_as_bucket_view=True)
        if self.kind == "fsdp":
            _shard(denoiser, device, precision)
        return denoiser

    def micro_batch(self, network: nn.Module, last: bool) -> Any:
        """Context of one micro-batch: whole gradients are averaged after the last one, sharded ones after each."""
        if isinstance(network, nn.parallel.DistributedDataParallel) and not last:
            return network.no_sync()
        return nullcontext()

    def sum(self, values: Tensor) -> Tensor:
        """``values`` added up over the processes."""
        if self.kind is not None:
            dist.all_reduce(values)
        return values

    def joined(self, part: Tensor) -> Tensor:
        """The parts (n_r, ...) of all processes one after the other, on the CPU; of a process alone its own."""
        if self.kind is None:
            return part
        parts: list[Tensor | None] = [None] * self.size
        dist.all_gather_object(parts, part.cpu())
        return torch.cat([one for one in parts if one is not None])

    def wait(self) -> None:
        """Wait for the other processes."""
        if self.kind is not None:
            dist.barrier()

    def agree(self, value: int) -> bool:
        """Whether all processes hold the same value."""
        if self.kind is None:
            return True
        found: list[object] = [None] * self.size
        dist.all_gather_object(found, value)
        return len(set(found)) == 1

    def any(self, flag: bool) -> bool:
        """Whether ``flag`` is set in one of the processes, or more."""
        return flag if self.kind is None else any_process(flag)

    def local(self, tensor: Tensor) -> Tensor:
        """This process's shard, sharing memory with ``tensor``; for whole tensors the tensor itself."""
        sharded: Any = tensor
        return sharded.to_local() if self.kind == "fsdp" else tensor

    def whole(self, tensor: Tensor) -> Tensor:
        """The whole of ``tensor``; for shards a copy on the CPU. All processes must ask at the same time."""
        sharded: Any = tensor
        return sharded.full_tensor().cpu() if self.kind == "fsdp" else tensor

    def assign(self, target: Tensor, whole: Tensor) -> None:
        """Copy ``whole``, or this process's shard of it, into ``target``."""
        if self.kind == "fsdp":
            from torch.distributed.tensor import distribute_tensor

            sharded: Any = target
            # every process has read the whole from its file, so none needs to send it
            whole = distribute_tensor(
                whole.to(target.device), sharded.device_mesh, sharded.placements, src_data_rank=None
            )
        target.copy_(whole)


ALONE = Ranks()


@contextmanager
def process_group(kind: Kind, device: torch.device) -> Iterator[Ranks]:
    """Join the processes that torchrun has started for this block (it sets RANK, WORLD_SIZE, MASTER_ADDR)."""
    with _joined(device):
        yield Ranks(kind, dist.get_rank(), dist.get_world_size())


@contextmanager
def group_of_blocks(block: int, num_blocks: int, device: torch.device) -> Iterator[None]:
    """Join the processes of all blocks, one for each, as rank ``block``; for plans that share trained parts.

    They meet at MASTER_ADDR and MASTER_PORT, which must be set to the same for all; block 0 listens there.

    Raises:
        ValueError: these variables are not set.
    """
    if not {"MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        raise ValueError(
            "the blocks of this plan share stem and head (shared='synced') and must meet: set MASTER_ADDR and "
            "MASTER_PORT to the same address for all, or start them with oneblock launch"
        )
    with _joined(device, rank=block, world_size=num_blocks):
        yield


@contextmanager
def _joined(device: torch.device, **place: Any) -> Iterator[None]:
    # torch.distributed.nn keeps the default group of the moment when it is first imported (its functions have it as a
    # default argument), and the first optimizer imports it. A group that is kept outlives its end, and its threads then
    # abort the process, now and then, while Python shuts down.
    import torch.distributed.nn  # noqa: F401

    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", **place)
    try:
        yield
    finally:
        dist.destroy_process_group()


def any_process(flag: bool) -> bool:
    """Whether ``flag`` is set in one process of the default group, or more; all must ask at the same time."""
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    flags = torch.tensor(int(flag), device=device)
    dist.all_reduce(flags, dist.ReduceOp.MAX)
    return bool(flags.item())


def _shard(denoiser: BlockDenoiser, device: torch.device, precision: str) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    # autocast decides where bf16 is used; here it only makes the gathered weights half as large. Inputs stay as they
    # are: a noise level in bf16 would be another noise level.
    half = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)
    policy = half if precision == "bf16" else MixedPrecisionPolicy(cast_forward_inputs=False)
    for layer in denoiser.layers.values():
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(denoiser, mesh=mesh, mp_policy=policy)
