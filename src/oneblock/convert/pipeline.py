"""Blocks in a pipeline of diffusers: every call goes to the network of the band that its time step lies in.

Experts and specialists answer each in a band of their own (eDiff-I, Section 4, https://arxiv.org/abs/2211.01324). A
pipeline goes from the noisiest time step to the least noisy one, so that each network is loaded once for all steps of
its band, and one is in memory at a time.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from oneblock.checks import fits, shown
from oneblock.convert.generators import Image
from oneblock.convert.kept import RECORD_FILE
from oneblock.convert.kinds import kind_of_class
from oneblock.convert.libraries import Diffusers
from oneblock.plain import read_plain
from oneblock.schedule import Parametrisation, frame_from_dict

LIBRARY = Diffusers()
AGAIN = "export the model again (Model.export)"


class RoutedTransformer(nn.Module):
    """Stands in the place of ``pipe.transformer``: is called as a network of diffusers, and answers as the band's own.

    What else a pipeline asks of its transformer (``config``, ``dtype``) is that of the network in memory.

    Args:
        networks: of the bands, the noisiest first. What is called without arguments loads a network, which is let go
            when another band's is needed; a network that is given itself then goes back to host memory.
        edges: time steps where two bands meet, in the units that the network is called with, descending: one less than
            ``networks``. A step that is an edge belongs to the band below it.
        device, dtype: where the networks work and in which type; None is that of the first.

    Raises:
        ValueError: the edges do not descend, or are not as many as they must be.
    """

    band: int
    """Whose network is in memory, which is ``resident``."""
    place: Tensor
    """Empty; where and in which type the networks work."""

    def __init__(
        self,
        networks: Sequence[Callable[[], nn.Module] | nn.Module],
        edges: Sequence[float],
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if len(edges) != len(networks) - 1 or any(a <= b for a, b in pairwise(edges)):
            raise ValueError(
                f"edges={shown(list(edges))} do not part {len(networks)} bands; give {max(len(networks) - 1, 0)} "
                "descending time steps"
            )
        self.edges = tuple(map(float, edges))
        self._networks = list(networks)
        first = self._made(0)
        known = next(first.parameters())
        self.register_buffer("place", torch.empty(0, device=device or known.device, dtype=dtype or known.dtype), False)
        self.resident = first.to(self.place)
        self.band = 0
        self._signature = inspect.signature(first.forward)

    @classmethod
    def from_pretrained(
        cls, directory: str | Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> Self:
        """The networks of an exported model (``Model.export``), read from safetensors when they are needed. Nothing is
        fetched, and nothing that stands in the directory is run.

        Raises:
            ValueError: the directory does not hold a model of generators of diffusers that keep their schedule.
            ImportError: diffusers is not installed.
        """
        place = Path(directory)
        values = _record(place)
        name = _class(values, place)
        frame = _frame(values, place)
        blocks, levels = _bands(values, place)
        inner = frame.noise(torch.tensor(levels[1:-1], dtype=torch.float64)).tolist() if len(blocks) > 1 else []
        kind = kind_of_class(LIBRARY.found_class(name, str(place)))
        scale = kind.time_scale if issubclass(kind, Image) else 1.0
        loaders = [partial(_load, place / block, name) for block in blocks]
        return cls(loaders, [time / scale for time in inner], device=device, dtype=dtype)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.place.dtype

    @property
    def device(self) -> torch.device:
        """Where the networks work."""
        return self.place.device

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "resident":
                raise
            return getattr(self.resident, name)

    def band_of(self, timestep: Tensor) -> Tensor:
        """The band (same shape, int64, on the CPU) of each time step."""
        edges = torch.tensor(self.edges, dtype=timestep.dtype if timestep.is_floating_point() else torch.float64)
        return (timestep.detach().cpu().unsqueeze(-1) <= edges).sum(-1)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the networks. Samples with time steps of several bands are asked for apart: of the arguments, tensors with
        an entry for every time step are taken to be theirs."""
        call = self._signature.bind(*args, **kwargs).arguments
        told = call.get("timestep")
        if told is None:
            raise ValueError("timestep=None, but the time step says which network answers; give it")
        bands = self.band_of(torch.as_tensor(told).flatten())
        asked = sorted(set(bands.tolist()), key=lambda band: (band != self.band, band))
        if len(asked) == 1:
            return self._network(asked[0])(*args, **kwargs)
        answers = []
        for band in asked:
            mine = (bands == band).nonzero().flatten()
            answers.append((mine, self._network(band)(**_taken(call, mine, len(bands)))))
        return _joined(answers)

    def _network(self, band: int) -> nn.Module:
        """The network of a band; the one that was in memory is let go before it is loaded."""
        if band != self.band:
            if isinstance(self._networks[self.band], nn.Module):
                self.resident.to("cpu")
            self.resident = nn.Module()
            self.band, self.resident = band, self._made(band).to(self.place)
        return self.resident

    def _made(self, band: int) -> nn.Module:
        network = self._networks[band]
        made: nn.Module = network if isinstance(network, nn.Module) else network()
        return made.eval()


def _record(directory: Path) -> Mapping[str, Any]:
    path = directory / RECORD_FILE
    if not path.is_file():
        raise ValueError(f"{directory} has no {RECORD_FILE}; give the directory of an exported model (Model.export)")
    values = read_plain(path)
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds a {type(values).__name__}, not a model; {AGAIN}")
    return values


def _class(values: Mapping[str, Any], directory: Path) -> str:
    """The class of the networks in the library."""
    library, name = values.get("library"), values.get("class")
    if library != LIBRARY.name or not isinstance(name, str):
        raise ValueError(
            f"{directory} holds networks of library={shown(library)}, class={shown(name)}; a pipeline needs those of "
            f"{LIBRARY.name}"
        )
    return name


def _frame(values: Mapping[str, Any], directory: Path) -> Parametrisation:
    """The frame that the networks keep."""
    frame = values.get("frame")
    if not isinstance(frame, dict):
        raise ValueError(
            f"the networks in {directory} were trained under EDM's preconditioning, and no scheduler of diffusers "
            "tells them their time steps; convert with the scheduler of the pipeline (convert(..., scheduler=...))"
        )
    return frame_from_dict(frame)


def _bands(values: Mapping[str, Any], directory: Path) -> tuple[list[str], list[float]]:
    """The directory of each block's network, and the noise levels of their bands."""
    names, levels = values.get("blocks"), values.get("edges")
    if not (isinstance(names, list) and fits(names, list[str]) and all(Path(name).name == name for name in names)):
        raise ValueError(f"{directory / RECORD_FILE} has blocks={shown(names)}, which are not directories; {AGAIN}")
    fitting = isinstance(levels, list) and fits(levels, list[float]) and len(levels) == len(names) + 1
    if not (isinstance(levels, list) and fitting and all(a > b for a, b in pairwise(levels))):
        raise ValueError(
            f"{directory / RECORD_FILE} has edges={shown(levels)} for {len(names)} blocks; one level more is needed, "
            f"all descending: {AGAIN}"
        )
    return names, levels


def _load(directory: Path, name: str) -> nn.Module:
    settings = LIBRARY.settings(directory)
    found = LIBRARY.class_name(settings, str(directory))
    if found != name:
        raise ValueError(f"{directory} holds a {found}, not a {name} as the other blocks; {AGAIN}")
    return LIBRARY.load(directory, settings)


def _taken(call: Mapping[str, Any], mine: Tensor, count: int) -> dict[str, Any]:
    """The arguments of some samples of a call for ``count``."""
    return {
        name: value[mine.to(value.device)] if isinstance(value, Tensor) and value.shape[:1] == (count,) else value
        for name, value in call.items()
    }


def _joined(answers: Sequence[tuple[Tensor, Any]]) -> Any:
    """Answers to some samples each, as one answer of the same kind."""
    order = torch.cat([mine for mine, _ in answers]).argsort()
    first = answers[0][1]
    entries = [tuple(answer) if isinstance(answer, tuple) else tuple(answer.values()) for _, answer in answers]
    whole = [torch.cat(parts)[order.to(parts[0].device)] for parts in zip(*entries, strict=True)]
    if isinstance(first, tuple):
        return tuple(whole)
    return type(first)(**dict(zip(first.keys(), whole, strict=True)))
