"""Low-rank adapters: a block holds the weights of its network frozen, and trains two thin matrices beside some of them.

LoRA (Hu et al., Equation 3, https://arxiv.org/abs/2106.09685): a linear map W of (d, k) answers

    W x + alpha / r B A x

with A of (r, k), random at the start, and B of (d, r), zero at the start, so that nothing is changed then. Gradients,
moments, averages and checkpoints are those of A and B alone; W is the tensor of the network itself, whatever the number
of blocks, where the network lies on the device that trains. The peft library makes the adapters and loads them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from oneblock.checks import check_count, check_number
from oneblock.convert.converted import Converted
from oneblock.convert.copies import emptied, source_of
from oneblock.convert.counting import faking

ADAPTER = "default"
"""What peft calls the adapters of a block, of which each has one set."""
ADAPTER_FILE = "adapter_model.safetensors"
"""Beside ``adapter_config.json``; both names are peft's."""
PREFIX = "base_model.model"
"""What peft calls the network in the names of adapters."""


@dataclass(frozen=True)
class Adapted:
    """The adapters of a block.

    Args:
        rank, alpha: r and alpha.
        names: of each adapted part of the block -> of that part in the network.
        transposed: the parts keep their weights as (k, d).
    """

    rank: int
    alpha: float
    names: Mapping[str, str]
    transposed: bool

    def config(self, targets: Sequence[str]) -> Any:
        """peft's settings, for parts of these names."""
        try:
            from peft import LoraConfig
        except ImportError as error:
            raise ImportError("adapters need peft; pip install 'oneblock[convert]'") from error
        return LoraConfig(
            r=self.rank,
            lora_alpha=cast(int, self.alpha),  # peft takes fractions too
            target_modules=list(targets),
            fan_in_fan_out=self.transposed,
        )


class LowRank(Converted):
    """A network whose blocks train low-rank adapters alone, and what conversion adds; made by ``lora``."""

    frozen = True

    def __init__(self, network: Converted, rank: int, targets: tuple[str, ...], alpha: float) -> None:
        self._network = copy(network)
        self._network.frozen = True
        self.frame = network.frame
        self._rank, self._targets, self._alpha = rank, targets, alpha
        self._names = {id(p): name for name, p in network.original.named_parameters()}
        said = f"{network.named}, LoRA of rank {rank} and alpha {alpha:g} on {' '.join(targets)}"
        super().__init__(network.count, network.width, said, network.picks)

    @property
    def original(self) -> nn.Module:
        return self._network.original

    @property
    def bare(self) -> Converted:
        """The network without adapters."""
        return self._network

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments of ``lora``."""
        return {"rank": self._rank, "targets": list(self._targets), "alpha": self._alpha}

    def block(self, layers: Mapping[str, int]) -> nn.Module:
        made = self._network.block(layers)
        adapted = Adapted(self._rank, self._alpha, *self._found(made))
        new = [p for p in made.parameters() if p.requires_grad]
        if adapted.names:
            _inject(made, adapted)
        for p in new:  # which peft has frozen too
            p.requires_grad_(True)
        cast(Any, made).adapted = adapted
        return made

    def _found(self, made: nn.Module) -> tuple[dict[str, str], bool]:
        """Parts of a block that get adapters -> their names in the network; and whether their weights are transposed.

        Raises:
            ValueError: a part of the network stands in two places of the block.
        """
        found: dict[str, str] = {}
        transposed = False
        for name, part in _linear(made):
            source = source_of(cast(Tensor, part.weight))
            told = "" if source is None else self._names[id(source)].removesuffix(".weight")
            if not _meant(told, self._targets):
                continue
            if told in found.values():
                raise ValueError(
                    f"targets={list(self._targets)}: {told} stands in two places of a block, and their adapters could "
                    "not be put together; use other targets, and no layer twice in a block"
                )
            found[name] = told
            transposed = not isinstance(part, nn.Linear)
        return found, transposed


def lora(network: Converted, *, targets: Sequence[str], rank: int = 8, alpha: float | None = None) -> LowRank:
    """A converted network whose blocks train low-rank adapters beside its frozen weights; give it to ``train`` as
    ``backbone``, and to ``Model.open`` and ``run_job``, whose files hold the adapters alone.

    At the start it answers as the network, to the bit. Where a network is told nothing of noise, the maps that tell it
    are trained too. Experts are blocks that all get the whole network::

        experts = ob.lora(whole, targets=["to_q", "to_k", "to_v"]).pick(whole.picks * 3)
        ob.train(ob.experts(recipe), backbone=experts, ...)

    Args:
        network: as ``convert`` makes it; every part of it stays as it is.
        targets: names of linear layers, or how their names end: ``"to_q"``, ``"attn1.to_out.0"``.
        rank: of the adapters.
        alpha: their scale times the rank; None is the rank, so that the scale is 1.

    Raises:
        ValueError: a target is not a linear layer of the network.
        ImportError: peft is not installed.
    """
    check_count("rank", rank)
    if alpha is not None:
        check_number("alpha", alpha, above=0)
    wanted = (targets,) if isinstance(targets, str) else tuple(targets)
    every = [name for name, _ in _linear(network.original)]
    wrong = [target for target in wanted if not any(_meant(name, [target]) for name in every)]
    if wrong or not wanted:
        raise ValueError(
            f"targets={list(wrong or wanted)} are not linear layers of {type(network.original).__name__}; use some of "
            f"{', '.join(dict.fromkeys(map(_within_layer, every)))}"
        )
    made = LowRank(network, rank, wanted, rank if alpha is None else alpha)
    _try(made)
    return made


def adapters_of(backbone: nn.Module) -> dict[str, Tensor]:
    """The adapters of a block by the names that peft gives them in the network that was converted:
    ``base_model.model.NAME.lora_A.weight`` (r, k) and ``.lora_B.weight`` (d, r).

    Raises:
        ValueError: the block has none.
    """
    found: dict[str, Tensor] = {}
    for name, told in adapted(backbone).names.items():
        part: Any = backbone.get_submodule(name)
        for kind in ("lora_A", "lora_B"):
            found[f"{PREFIX}.{told}.{kind}.weight"] = getattr(part, kind)[ADAPTER].weight.detach()
    return found


def write_adapter(backbone: nn.Module, directory: str | Path) -> None:
    """Write the adapters of a block as peft does, so that ``PeftModel.from_pretrained(network, directory)`` puts them
    into the network that was converted: the band's expert, but for the maps that tell it the noise level, which the
    network has no place for. Networks of diffusers that have ``load_lora_adapter`` take them by
    ``load_lora_adapter(directory, prefix="base_model.model", weight_name="adapter_model.safetensors")``.

    Args:
        directory: gets ``adapter_config.json`` and ``adapter_model.safetensors``; files of these names are replaced.

    Raises:
        ValueError: the block has no adapters.
    """
    tensors = {name: t.cpu().contiguous() for name, t in adapters_of(backbone).items()}
    given = adapted(backbone)
    place = Path(directory)
    place.mkdir(parents=True, exist_ok=True)
    targets = sorted(given.names.values())
    config = given.config(targets)
    config.inference_mode = True
    config.save_pretrained(str(place))
    # diffusers reads no other file, and would take alpha for the rank
    settings = {"r": given.rank, "lora_alpha": given.alpha, "target_modules": targets}
    told = json.dumps({f"{PREFIX}.{name}": value for name, value in settings.items()})
    save_file(tensors, place / ADAPTER_FILE, metadata={"format": "pt", "lora_adapter_metadata": told})


def read_adapter(backbone: nn.Module, directory: str | Path) -> dict[str, Tensor]:
    """The adapters that ``write_adapter`` wrote, by the names of the parameters of a block.

    Raises:
        ValueError: the directory holds those of another block.
    """
    path = Path(directory) / ADAPTER_FILE
    stored = load_file(path)
    found: dict[str, Tensor] = {}
    for name, told in adapted(backbone).names.items():
        for kind in ("lora_A", "lora_B"):
            key = f"{PREFIX}.{told}.{kind}.weight"
            if key not in stored:
                raise ValueError(f"{path} has no {key}; it holds the adapters of another block")
            found[f"{name}.{kind}.{ADAPTER}.weight"] = stored[key]
    return found


def adapted(backbone: nn.Module) -> Adapted:
    """What adapters a block has; a ``ValueError`` if it has none."""
    found = getattr(backbone, "adapted", None)
    if not isinstance(found, Adapted) or not found.names:
        raise ValueError(
            f"this {type(backbone).__name__} has no adapters; give a block of a network that lora(...) has made"
        )
    return found


def _inject(made: nn.Module, adapted: Adapted) -> None:
    """Give a block its adapters. peft moves them, which fake tensors do not allow, so they are made of real ones."""
    from torch._subclasses.fake_tensor import unset_fake_temporarily

    config = adapted.config(list(adapted.names))  # says that peft is missing
    from peft import inject_adapter_in_model

    with unset_fake_temporarily():
        inject_adapter_in_model(config, made, ADAPTER)
    if faking():
        for name in adapted.names:
            part: Any = made.get_submodule(name)
            for linear in (part.lora_A[ADAPTER], part.lora_B[ADAPTER]):
                linear.weight = nn.Parameter(emptied(linear.weight))


def _try(network: LowRank) -> None:
    """Build one block of all layers without content, so that what is wrong is said before any work."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        network.block({str(i): i for i in range(network.count)})


def _linear(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Linear layers by name, with those of GPT-2, whose weights are transposed; without those of a
    ``MultiheadAttention``, which does not call them."""
    for name, part in module.named_modules():
        conv1d = type(part).__name__ == "Conv1D" and isinstance(getattr(part, "weight", None), nn.Parameter)
        if type(part) is nn.Linear or conv1d:
            yield name, part


def _meant(name: str, targets: Sequence[str]) -> bool:
    """Whether a name is one of ``targets`` or ends as one of them."""
    return any(name == target or name.endswith(f".{target}") for target in targets)


def _within_layer(name: str) -> str:
    """A part's name after the number of its layer."""
    return re.sub(r"^.*?\.[0-9]+\.", "", name)
