"""A population around the parameters of a network, and the gradient that its fitness estimates.

``g = -c sum_p (s(f_2p) - s(f_2p+1)) E_p`` over the N / 2 pairs, where s shapes the fitness f (``optim.fitness``) and
E_p is the perturbation of pair p (``optim.perturbation``). The factor c is one of three that are published
(``Scaling``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from oneblock.checks import check_choice, check_count
from oneblock.ops.members import Full, LowRank, Members, Offset
from oneblock.optim.fitness import Shaping, check_population, check_shaping, pair_weights
from oneblock.optim.perturbation import Noise
from oneblock.seeds import derive_seed

Scaling = Literal["gradient", "paper", "official"]
"""The factor c of the update.

- ``"gradient"``: ``1 / (N sigma)``; with unshaped fitness, the gradient of fitness averaged over the noise (Salimans et
  al., https://arxiv.org/abs/1703.03864)
- ``"paper"``: ``1 / N`` (Sarkar et al., https://arxiv.org/abs/2511.16652; eggroll-vllm): sigma does not change the
  size of a step
- ``"official"``: ``sigma / sqrt(N)`` (HyperscaleES): the noise in a step does not depend on N
"""
SCALINGS: tuple[Scaling, ...] = ("gradient", "paper", "official")
Result = TypeVar("Result")


class Population:
    """Members in pairs around ``parameters``; what they are follows from these, the seed and a step.

    Args:
        parameters: those that evolve, by name.
        size: N, even.
        chunk: members that go side by side under ``torch.vmap``, even; 1 takes one after the other, which any network
            can, and 0 all at once.
        group_size, shaping: see ``optim.fitness``; ``sigma``, ``rank`` and ``seed`` see ``optim.perturbation``.

    Raises:
        ValueError: a setting is not allowed, or two of the parameters share their memory.
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        *,
        size: int,
        sigma: float,
        rank: int = 1,
        chunk: int = 0,
        group_size: int = 0,
        shaping: Shaping = "z-score",
        scaling: Scaling = "gradient",
        seed: int = 0,
    ) -> None:
        check_population(size, group_size)
        check_chunk(chunk)
        check_shaping(shaping)
        check_choice("scaling", scaling, SCALINGS)
        _check_memory(parameters)
        self.parameters = dict(parameters)
        self.size, self.chunk, self.group_size = size, chunk or size, group_size
        self.shaping, self.scaling = shaping, scaling
        self.noise = Noise(self.parameters, sigma=sigma, rank=rank, seed=seed)
        self.made: dict[str, str] = {}
        """Parameters whose perturbation was made as a whole matrix, with the function that asked for it."""

    @property
    def chunks(self) -> list[range]:
        """The members that are evaluated together."""
        return [range(i, min(i + self.chunk, self.size)) for i in range(0, self.size, self.chunk)]

    @torch.no_grad()
    def each(self, work: Callable[[Any], Result], step: int, members: range, given: Any = None) -> Result:
        """What ``work`` returns for each of ``members``, its tensors stacked along a first axis.

        Args:
            work: reads the parameters; called with ``given``, or with the part of it for the group of the member.
            given: a tensor, or tuples and dictionaries of them, whose first axis is that of the groups.
        """
        offsets = self.noise.offsets(step, members)
        groups = [member // self.group_size for member in members] if self.group_size else []
        # what a network draws by itself is the same for all members
        with _seeded(derive_seed(self.noise.seed, "network", step), _cards(self.parameters.values())):
            if len(members) == 1:
                inputs = tree_map(lambda t: t[groups[0]], given) if groups else given
                return _stacked(self._member(work, tree_map_offsets(offsets, lambda t: t[0]), inputs))
            inputs = tree_map(lambda t: t[groups], given) if groups else given
            one = torch.vmap(
                lambda tensors, own: self._member(work, _offsets(tensors), own),
                in_dims=(0, 0 if groups else None),
                randomness="same",
            )
            try:
                return one({name: _tensors(offset) for name, offset in offsets.items()}, inputs)
            except RuntimeError as error:
                if "vmap" in str(error) or "Batching rule" in str(error):
                    raise ValueError(
                        f"members cannot go side by side here ({str(error).splitlines()[0][:200]}); use chunk=1, which "
                        "takes one after the other"
                    ) from error
                raise

    @contextmanager
    def member(self, step: int, index: int) -> Iterator[None]:
        """While entered, the parameters themselves are those of member ``index``."""
        check_count("index", index, 0, self.size - 1)
        offsets = tree_map_offsets(self.noise.offsets(step, range(index, index + 1)), lambda t: t[0])
        kept = {name: p.detach().clone() for name, p in self.parameters.items()}
        with torch.no_grad():
            for name, p in self.parameters.items():
                p.copy_(offsets[name].added(p))
        try:
            yield
        finally:
            with torch.no_grad():
                for name, p in self.parameters.items():
                    p.copy_(kept[name])

    def leave_gradients(self, step: int, fitness: Tensor) -> None:
        """Put into ``p.grad`` of every parameter the estimated gradient of ``-fitness`` (N,), which is finite."""
        weights = pair_weights(fitness, self.shaping, self.group_size)
        sums = self.noise.sum(step, weights)
        for name, p in self.parameters.items():
            p.grad = sums.pop(name).mul_(-self.factor).to(p.dtype)

    @property
    def factor(self) -> float:
        """The c of ``scaling``."""
        sigma, count = self.noise.sigma, self.size
        return {"gradient": 1 / (count * sigma), "paper": 1 / count, "official": sigma / math.sqrt(count)}[self.scaling]

    def _member(self, work: Callable[[Any], Result], offsets: Mapping[str, Offset], given: Any) -> Result:
        with Members(self.parameters, offsets, self.made):
            return work(given)


def check_chunk(chunk: int) -> None:
    """Refuse a number of members that splits a pair."""
    check_count("chunk", chunk, 0)
    if chunk > 1 and chunk % 2:
        raise ValueError(f"chunk={chunk} splits a pair; use an even number, 1 for one by one, or 0 for all at once")


@contextmanager
def evaluated(networks: Iterable[nn.Module]) -> Iterator[None]:
    """While entered, modules are as for evaluation: without dropout, and with the statistics that they have kept."""
    modes = {module: module.training for network in networks for module in network.modules()}
    try:
        for module in modes:
            module.training = False
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def random_modules(network: nn.Module) -> list[str]:
    """Names of the modules that work differently in training: dropout, and norms that use statistics of the batch."""
    kinds = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._NormBase)
    return [
        name
        for name, module in network.named_modules()
        if (isinstance(module, kinds[0]) and module.p > 0)
        or (isinstance(module, kinds[1]) and module.track_running_stats)
    ]


def tree_map_offsets(offsets: Mapping[str, Offset], change: Callable[[Tensor], Tensor]) -> dict[str, Offset]:
    """The offsets with ``change`` made to all of their tensors."""
    return {name: _offset(tuple(map(change, _tensors(offset)))) for name, offset in offsets.items()}


def _tensors(offset: Offset) -> tuple[Tensor, ...]:
    return (offset.a, offset.b) if isinstance(offset, LowRank) else (offset.values,)


def _offset(tensors: Sequence[Tensor]) -> Offset:
    return LowRank(*tensors) if len(tensors) == 2 else Full(*tensors)


def _offsets(tensors: Mapping[str, Sequence[Tensor]]) -> dict[str, Offset]:
    return {name: _offset(one) for name, one in tensors.items()}


def _stacked(result: Any) -> Any:
    return tree_map(lambda value: torch.as_tensor(value)[None], result)


def _cards(tensors: Iterable[Tensor]) -> list[torch.device]:
    return sorted({t.device for t in tensors if t.is_cuda}, key=str)


@contextmanager
def _seeded(seed: int, cards: list[torch.device]) -> Iterator[None]:
    """torch's own generators start from ``seed``, and go on afterwards as if nothing had been drawn."""
    with torch.random.fork_rng(devices=cards):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed other cards too
        for card in cards:
            with torch.cuda.device(card):
                torch.cuda.manual_seed(seed)
        yield


def _check_memory(parameters: Mapping[str, Tensor]) -> None:
    seen: dict[tuple[int, int], str] = {}
    for name, p in parameters.items():
        place = p.untyped_storage()._cdata, int(p.storage_offset())
        if place in seen:
            raise ValueError(
                f"{seen[place]} and {name} are two parameters in the same memory; a perturbation of one would be one "
                "of the other: make them one nn.Parameter, or give each its own tensor"
            )
        seen[place] = name
