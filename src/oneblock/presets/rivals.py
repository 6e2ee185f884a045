"""What end-to-end training costs in the ways that users pick where memory runs out: rows beside those of ``train``.

They follow from the count of end-to-end training, or from one pass forward and backward of it (``memory.passage``):
what differs is which weights, gradients and optimizer states are on the device at each moment.

- ``8-bit Adam``: the moments of ``optim.adamw`` in 8 bits; ``train`` has it (``optimizer="adamw8bit"``). Temporary
  tensors of the optimizer's step are not counted here.
- ``fused Adafactor``: a gradient changes its parameter as soon as it is there, and is let go (as in Lv et al., "LOMO",
  https://arxiv.org/abs/2306.09782). Adafactor without momentum keeps one second moment for each row and column (Shazeer
  and Stern, Algorithm 4, https://arxiv.org/abs/1804.04235), here as ``torch.optim.Adafactor`` runs, one parameter after
  the other. It can neither accumulate micro-batches nor clip the whole gradient.
- ``block swap``: the same, and the matrices of all layers but ``KEPT`` wait in host memory. On the way forward and on
  the way back a layer that leaves the device changes places with one that comes (kohya-ss/sd-scripts,
  library/custom_offloading_utils.py): as many layers as wait, both ways, twice a step.
- ``FSDP2 offload``: ``fully_shard`` of each layer and of the rest, with ``CPUOffloadPolicy``, in one process (torch
  2.13, distributed/fsdp/_fully_shard). Weights, gradients, moments and averages are in host memory, where the
  optimizer works. A layer's weights are on the device in its forward and in its backward pass, those of stem and head
  all the time; a layer's gradients are put into one tensor and copied to a second, which goes to the host, and the
  first waits until the next layer's are there.

With ``precision="bf16"`` the weights on the device and their gradients have 16 bits: of ``FSDP2 offload`` by its
``MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)``, with 32 bits in host memory; of
``fused Adafactor`` and ``block swap`` altogether, as with ``--full_bf16`` of kohya's scripts. Neither of these two
keeps an average of the weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, Literal, cast

import torch
from torch import Size, Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode

from oneblock.blockwise import BlockDenoiser
from oneblock.memory import DryRun, Moment, PeakBytes, passage, peak_bytes
from oneblock.optim.adamw import bytes_8bit
from oneblock.plan import Plan
from oneblock.presets.cost import costliest_job, dry_pass, untrained_learner
from oneblock.presets.tasks import without_content
from oneblock.train.strategy import plan_optimizer

RivalName = Literal["8-bit Adam", "fused Adafactor", "block swap", "FSDP2 offload"]
KEPT = 2
"""Layers that stay on the device in a block swap; fewer leave none to compute with while another comes."""
FULL = 4
"""Bytes of a number in 32 bits."""


@dataclass(frozen=True)
class Rival:
    """Bytes of a rival: on the device at the peak, in host memory, and over the bus between them in one step."""

    name: RivalName
    peak: PeakBytes
    host: int = 0
    bus: int = 0


def rivals(plan: Plan, peak: PeakBytes, checkpointing: bool = False) -> list[Rival]:
    """The rivals of training a plan of one block.

    Args:
        peak: that of training it (``cost.training_peak``).
        checkpointing: recompute activations layer by layer, in the rivals too.
    """
    settings = plan_optimizer(plan)
    network = Network.of(plan)
    found = [] if settings.optimizer == "adamw8bit" else [in_8_bits(network, peak)]
    moments = passage(partial(dry_pass, plan, costliest_job(plan), checkpointing, network.dtype), _layers)
    if settings.accumulate == 1:
        fused = fused_adafactor(network, moments)
        found += [fused, *block_swap(network, fused.peak)]
    return [*found, fsdp_offload(network, moments, settings.accumulate)]


@dataclass(frozen=True)
class Network:
    """The parameters of a network.

    Args:
        shapes: of the trained parameters, by name.
        owner: the layer that a parameter belongs to, empty for stem and head.
        swapped: the parameters that a block swap moves, those called ``weight``.
        dtype: of the weights on the device.
    """

    shapes: Mapping[str, Size]
    owner: Mapping[str, str]
    swapped: frozenset[str]
    dtype: torch.dtype

    @classmethod
    def of(cls, plan: Plan) -> Network:
        """The network of a plan of one block."""
        half = plan_optimizer(plan).precision == "bf16"
        with without_content():
            module = untrained_learner(plan, costliest_job(plan)).module
        inside = {id(p): name for name, layer in module.layers.items() for p in layer.parameters()}
        named = {name: p for name, p in module.named_parameters() if p.requires_grad}
        return cls(
            shapes={name: p.shape for name, p in named.items()},
            owner={name: inside.get(id(p), "") for name, p in named.items()},
            swapped=frozenset(name for name in named if name.endswith(".weight")),
            dtype=torch.bfloat16 if half else torch.float32,
        )

    def numel(self, layer: str | None = None) -> int:
        """Weights of a layer (empty: stem and head), or of all."""
        return sum(shape.numel() for name, shape in self.shapes.items() if layer in (None, self.owner[name]))

    @property
    def layers(self) -> list[str]:
        return [layer for layer in dict.fromkeys(self.owner.values()) if layer]


def in_8_bits(network: Network, peak: PeakBytes) -> Rival:
    """End-to-end training at its ``peak``, with moments of 8 bits."""
    states = sum(bytes_8bit(shape.numel()) for shape in network.shapes.values())
    return Rival("8-bit Adam", _peak({**peak.by_kind, "Optstate": states}))


def fused_adafactor(network: Network, moments: Sequence[Moment]) -> Rival:
    """Every gradient is used at its moment, when activations and the temporary tensors of the update live beside it."""
    size = network.dtype.itemsize
    updates = {name: update_bytes(shape, network.dtype) for name, shape in network.shapes.items()}
    always = {
        "Parameter": size * network.numel(),
        "Optstate": sum(state for state, _ in updates.values()),
    }
    found = [{**always, **moment.high} for moment in moments]
    for moment in moments:
        if moment.event == "gradient":
            gradient, (_, temporary) = size * network.shapes[moment.name].numel(), updates[moment.name]
            optimizer = always["Optstate"] + temporary
            found.append({**always, **moment.now, "Gradient": gradient, "Optstate": optimizer})
    return Rival("fused Adafactor", _highest(found))


def block_swap(network: Network, fused: PeakBytes) -> Iterator[Rival]:
    """``fused_adafactor``, whose peak is ``fused``, with all layers but ``KEPT`` in host memory; nothing of a network
    without more layers."""
    waiting = network.layers[KEPT:]
    if waiting:
        swapped = [name for name in network.swapped if network.owner[name] in waiting]
        host = network.dtype.itemsize * sum(network.shapes[name].numel() for name in swapped)
        kinds = {**fused.by_kind, "Parameter": fused.by_kind["Parameter"] - host}
        yield Rival("block swap", _peak(kinds), host, bus=4 * host)


def fsdp_offload(network: Network, moments: Sequence[Moment], accumulate: int = 1) -> Rival:
    """``fully_shard`` with ``CPUOffloadPolicy`` over the moments of a step of ``accumulate`` micro-batches."""
    device = Offloaded(network)
    found = [kinds for moment in moments for kinds in device.follow(moment)]
    weights, ends = FULL * network.numel(), FULL * network.numel("")
    come, go = 2 * (weights - ends) + ends, weights
    # in host memory: weights, gradients, two moments, averages
    return Rival("FSDP2 offload", _highest(found), host=5 * weights, bus=accumulate * (come + go))


@dataclass
class Offloaded:
    """What ``fully_shard`` has on the device from moment to moment.

    Args:
        here: layers whose weights are.
        gradients: bytes of those not yet reduced, by layer.
        reduced: bytes of the tensor that holds a layer's gradients until the next layer's.
    """

    network: Network
    here: set[str] = field(default_factory=lambda: {""})
    gradients: dict[str, int] = field(default_factory=dict)
    reduced: int = 0

    def follow(self, moment: Moment) -> Iterator[dict[str, int]]:
        """Bytes by kind at a moment, one for each step of what it brings about, and their most until the next."""
        name = moment.name
        if moment.event in ("enter", "return") and name not in self.here:
            self.here.add(name)
            yield self._kinds(moment.now, more=self._copies(name))
        elif moment.event == "leave":
            self.here.discard(name)
        elif moment.event == "gradient":
            layer, numel = self.network.owner[name], self.network.shapes[name].numel()
            self.gradients[layer] = self.gradients.get(layer, 0) + self.network.dtype.itemsize * numel
            if layer and self.gradients[layer] == self.network.dtype.itemsize * self.network.numel(layer):
                yield from self._reduce(layer, moment.now)
        yield self._kinds(moment.high)

    def _reduce(self, layer: str, now: Mapping[str, int]) -> Iterator[dict[str, int]]:
        self.here.discard(layer)
        self.reduced = FULL * self.network.numel(layer)
        yield self._kinds(now)
        del self.gradients[layer]
        yield self._kinds(now, more=self.reduced)

    def _copies(self, layer: str) -> int:
        """The largest parameter, as it comes and before it is where it is used."""
        largest = max(shape.numel() for name, shape in self.network.shapes.items() if self.network.owner[name] == layer)
        half = self.network.dtype.itemsize if self.network.dtype != torch.float32 else 0
        return (FULL + half) * largest

    def _kinds(self, others: Mapping[str, int], more: int = 0) -> dict[str, int]:
        weights = self.network.dtype.itemsize * sum(map(self.network.numel, self.here))
        gradients = sum(self.gradients.values()) + self.reduced
        return {**others, "Parameter": weights, "Gradient": gradients, "Temp": others.get("Temp", 0) + more}


class FusableAdafactor(torch.optim.Adafactor):
    """``torch.optim.Adafactor`` that also works on tensors without content: a number asked of one is 1."""

    def __init__(self, parameter: Tensor) -> None:
        super().__init__([parameter], foreach=False)

    def step(self, closure: Any = None) -> Any:
        with _Ones():  # type: ignore[no-untyped-call]
            return super().step(closure)  # type: ignore[no-untyped-call]


class _Ones(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and isinstance(args[0], FakeTensor):
            return 1.0
        return func(*args, **(kwargs or {}))


@cache
def update_bytes(shape: Size, dtype: torch.dtype) -> tuple[int, int]:
    """Bytes of Adafactor's state for a parameter, and of the temporary tensors of its step."""

    def setup() -> DryRun:
        parameter = nn.Parameter(torch.empty(shape, dtype=dtype))
        gradient, optimizer = torch.empty_like(parameter), FusableAdafactor(parameter)

        def step() -> None:
            parameter.grad = gradient
            optimizer.step()

        return DryRun(nn.ParameterList([parameter]), optimizer, (gradient,), step)

    idle = peak_bytes(lambda: _resting(setup()))
    return idle.by_kind["Optstate"], peak_bytes(setup).total - idle.total


def _resting(run: DryRun) -> DryRun:
    return DryRun(run.module, run.optimizer, run.others, lambda: None)


def _layers(module: nn.Module) -> Mapping[str, nn.Module]:
    return dict(cast(BlockDenoiser, module).layers.items())


def _peak(kinds: Mapping[str, int]) -> PeakBytes:
    return PeakBytes(sum(kinds.values()), dict(kinds))


def _highest(found: Sequence[Mapping[str, int]]) -> PeakBytes:
    return _peak(max(found, key=lambda kinds: sum(kinds.values())))
