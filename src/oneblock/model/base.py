"""What the models of all tasks have in common: how they are opened and saved."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Self, get_args

import torch
from torch import nn

from oneblock.backbone import BuildBackbone
from oneblock.blockwise import Denoiser
from oneblock.checks import MANY, check_choice, check_count
from oneblock.evaluate.audit import Audit
from oneblock.model.export import export
from oneblock.partition import Partition, make_partition
from oneblock.plan import Plan
from oneblock.presets.data import Data
from oneblock.presets.door import open_plan
from oneblock.presets.kept import known_backbone
from oneblock.presets.names import class_names
from oneblock.presets.tasks import block_parameters, blockwise
from oneblock.train.exported import is_export
from oneblock.train.machine import Switch, compiles, open_device
from oneblock.train.shards import CONFIG_FILE, copy_model, merge, open_denoiser
from oneblock.train.strategy import job_specs

KINDS = {
    "image": ("images", "ImageModel"),
    "classify": ("labels", "ClassifyModel"),
    "masked-text": ("text", "MaskedModel"),
    "text": ("text", "CausalModel"),
    "video": ("video", "VideoModel"),
}
"""Task -> the module beside this one and the class of its models; named, since these modules import this one."""


class Model(ABC):
    """A trained denoiser with its plan. Made by ``Model.open``.

    Args:
        plan: of the run.
        denoiser: of the whole noise range, its blocks loaded when they are needed.
        directory: the run or merged model that it came from.
        backbone: the user's own network, where it has one.
    """

    task: ClassVar[str]
    compiled: ClassVar[bool] = False
    """Whether compiling pays by itself: calls have few shapes, and each has one compilation of seconds."""

    def __init__(self, plan: Plan, denoiser: Denoiser, directory: Path, backbone: BuildBackbone | None = None) -> None:
        self.plan = plan
        self.denoiser = denoiser
        self.directory = directory
        self.backbone = backbone

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        device: str | torch.device = "cpu",
        resident: int | None = None,
        backbone: BuildBackbone | None = None,
        compile: Switch = "auto",
    ) -> Self:
        """The model of a run's directory, or of a merged or exported model, with averaged weights.

        Args:
            device: where it works.
            resident: blocks kept in memory; 1 holds a single block at any time, None keeps all. On CUDA that is the
                memory of the device; the next block is read into host memory meanwhile.
            backbone: the user's own network, of a run that was trained with one; a run keeps a network of another
                library itself.
            compile: pass layers through torch.compile, seconds for every shape of a call (auto: models of images on
                CUDA, with a compiler).

        Raises:
            ValueError: the run, device or network does not exist, or its task is not that of this class.
            CheckpointError: on use, when a block is missing or damaged.
        """
        plan = open_plan(Path(path))
        kind = _kind(plan.task)
        if not issubclass(kind, cls):
            raise ValueError(f"{path} is a run of task {plan.task!r}; open it with {kind.__name__} or Model")
        check_choice("compile", compile, get_args(Switch))
        where = open_device(device)
        compiled = compiles(where, "off" if compile == "auto" and not kind.compiled else compile)
        backbone = known_backbone(plan, Path(path), backbone)
        denoiser = open_denoiser(Path(path), blockwise(plan, backbone), where, resident, compiled)
        return kind(plan, denoiser, Path(path), backbone)

    @abstractmethod
    def evaluate(self, data: Data | None = None) -> dict[str, Any]:
        """Scores on held-out data, as plain values. Where the data are given by a name and their training split is not
        what the plan was made for, ``other_data`` says so.

        Args:
            data: a name, ``ImageData`` or ``TextData``, a ``Source`` or a torch Dataset; None is the plan's own.

        Raises:
            ValueError: the data have another shape, vocabulary or other classes than the plan.
        """

    def audit(self, data: Data | None = None) -> Audit:
        """What the model has memorised of its training data; of models of images alone (``ImageModel.audit``).

        Raises:
            ValueError: a model of another task.
        """
        raise ValueError(
            f"this is a model of task {self.task!r}; audit takes generators of images, task 'image': it looks for "
            "training images among samples"
        )

    @property
    def network(self) -> nn.Module:
        """The backbone of a model of one block, with its averaged weights, e.g. for ``convert``."""
        if self.plan.num_blocks > 1:
            raise ValueError(f"this model has {self.plan.num_blocks} blocks, which are no single network")
        return self.denoiser.block(0).backbone

    def save(self, path: str | Path) -> None:
        """Write the merged model: ``config.json`` and a safetensors shard for each block.

        Raises:
            ValueError: ``path`` holds something else, which stays as it is.
            CheckpointError: a block of the run is missing, unfinished or damaged.
        """
        out = Path(path)
        _check_free(out, self.plan)
        wanted = block_parameters(self.plan, self.backbone)
        if is_export(self.directory):
            raise ValueError(f"{self.directory} is an exported model, with its weights alone; save the run instead")
        if not (self.directory / CONFIG_FILE).is_file():
            merge(self.directory, out, job_specs(self.plan)[-1].last_step, parameters=wanted)
        elif out.resolve() != self.directory.resolve():
            copy_model(self.directory, out, self.plan, wanted)

    def export(self, directory: str | Path, *, scores: Mapping[str, Any] | None = None) -> None:
        """Write a model of a converted network in the format of the library that the network comes from: for each block
        a network with its layers alone, between stem and head as they were trained.

        ``block-b/`` loads with the class of the network, ``from_pretrained``; what it is not in the library, the noise
        levels and noisy targets that its layers were taught, stands beside it and is read by ``Model.open``, which
        opens ``directory`` as it opens the run. ``README.md`` says what is what.

        Args:
            scores: for the model card, as ``evaluate`` gives them; None takes those that a run of a comparison keeps.

        Raises:
            ValueError: the network is of no library, ``directory`` is in use, or the library has no network with the
                layers of a block alone.
            CheckpointError: a block is missing, unfinished or damaged.
        """
        export(self, Path(directory), scores)

    @property
    def classes(self) -> tuple[str, ...]:
        """One name for each class: that of the data, or the class's number; empty without classes."""
        return class_names(self.plan)

    def bands(self, report_bands: int) -> Partition:
        """Bands that losses are reported on."""
        check_count("report_bands", report_bands, least=0, most=MANY)
        return make_partition(self.plan.partition.law, report_bands) if report_bands else self.plan.partition


def said_of(row: dict[str, Any], other: str) -> dict[str, Any]:
    """Scores, with ``other_data`` if they were taken on other data than the plan's."""
    return {**row, "other_data": other} if other else row


def _kind(task: str) -> type[Model]:
    """The class of the models of a task."""
    module, name = KINDS[task]
    kind: type[Model] = getattr(import_module(f"oneblock.model.{module}"), name)
    return kind


def _check_free(out: Path, plan: Plan) -> None:
    """Refuse a place that holds anything but this model."""
    if not out.exists():
        return
    if not out.is_dir():
        raise ValueError(f"{out} is a file; give the model a directory of its own")
    if any(out.iterdir()) and not (out / CONFIG_FILE).is_file():
        raise ValueError(f"{out} holds something other than a model; give the model a directory of its own")
    if (out / CONFIG_FILE).is_file() and open_plan(out).hash != plan.hash:
        raise ValueError(f"{out} holds a model of another plan; use another directory")
