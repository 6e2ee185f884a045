"""The tasks and the networks that a plan may name, one entry each, with everything that depends on the name."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from oneblock.backbone import LOADING, BuildBackbone, check_backbone
from oneblock.blockwise import Blockwise
from oneblock.data import Augment, Batches
from oneblock.models.cnn import NoisyCNN
from oneblock.models.dit import DiT
from oneblock.models.encoder import Encoder
from oneblock.models.gpt import GPT
from oneblock.models.video import Video
from oneblock.models.vit import ViT
from oneblock.plan import Plan
from oneblock.precondition import Frame, MaskedTokens
from oneblock.presets.align import with_projection
from oneblock.presets.base import OwnBackbone
from oneblock.presets.captions import is_captioned
from oneblock.presets.causal import (
    causal_task,
    empty_causal,
    empty_causal_task,
    empty_token_table,
    gpt_config,
    token_table,
)
from oneblock.presets.classify import (
    classify_task,
    empty_labels,
    empty_table,
    empty_task,
    label_augment,
    label_frame,
    label_table,
    vit_config,
)
from oneblock.presets.cnn import CNN_NAME, cnn_config
from oneblock.presets.frames import frame_values
from oneblock.presets.image import (
    dit_config,
    empty_images,
    image_augment,
    image_frame,
    image_training_task,
)
from oneblock.presets.masked import (
    empty_masked,
    empty_masked_training_task,
    encoder_config,
    masked_training_task,
    num_symbols,
)
from oneblock.presets.objective import objective_frame
from oneblock.presets.relay import with_relay
from oneblock.presets.video import empty_videos, video_config, video_task
from oneblock.schedule import Parametrisation, frame_to_dict
from oneblock.tasks.base import Batch, Task
from oneblock.train.layout import trained_parameters
from oneblock.train.shards import Parameters

Config = TypeVar("Config")


def _as_it_is(plan: Plan) -> None:
    """Training samples are not changed."""


@dataclass(frozen=True, kw_only=True)
class TaskParts:
    """What a plan of one task is asked for.

    Args:
        task: what is noised and predicted, with which loss.
        frame: what the blocks are shown of noisy targets.
        empty_task, empty_frame: the same without content, for counting; must not look at the values of tensors.
        empty_batch: so many samples without content, for a block or (None) the trunk.
        num_logits: answers of the network at every place of the targets; None where it answers with their own shape.
        augment: how training samples are changed at random; None for not at all.
    """

    task: Callable[[Plan], Task]
    frame: Callable[[Plan], Frame]
    empty_task: Callable[[Plan], Task]
    empty_frame: Callable[[Plan], Frame]
    empty_batch: Callable[[Plan, int, int | None], Batch]
    num_logits: Callable[[Plan], int | None]
    augment: Callable[[Plan], Augment | None] = _as_it_is


TASKS: dict[str, TaskParts] = {
    "image": TaskParts(
        task=image_training_task,
        frame=image_frame,
        empty_task=partial(image_training_task, empty=True),
        empty_frame=image_frame,
        empty_batch=empty_images,
        num_logits=lambda plan: None,
        augment=image_augment,
    ),
    "classify": TaskParts(
        task=classify_task,
        frame=lambda plan: label_frame(plan, label_table(plan)),
        empty_task=empty_task,
        empty_frame=lambda plan: label_frame(plan, empty_table(plan)),
        empty_batch=empty_labels,
        num_logits=lambda plan: cast(int, plan.architecture["num_classes"]),
        augment=label_augment,
    ),
    "video": TaskParts(
        task=video_task,
        frame=objective_frame,
        empty_task=video_task,
        empty_frame=objective_frame,
        empty_batch=empty_videos,
        num_logits=lambda plan: None,
    ),
    "masked-text": TaskParts(
        task=masked_training_task,
        frame=lambda plan: MaskedTokens(),
        empty_task=empty_masked_training_task,
        empty_frame=lambda plan: MaskedTokens(),
        empty_batch=empty_masked,
        num_logits=num_symbols,
    ),
    "text": TaskParts(
        task=causal_task,
        frame=lambda plan: label_frame(plan, token_table(plan)),
        empty_task=empty_causal_task,
        empty_frame=lambda plan: label_frame(plan, empty_token_table(plan)),
        empty_batch=empty_causal,
        num_logits=num_symbols,
    ),
}


def _network(
    config: Callable[[Plan], Config], network: Callable[[Config, range], nn.Module]
) -> Callable[[Plan], BuildBackbone]:
    return lambda plan: partial(network, config(plan))


NETWORKS: dict[str, Callable[[Plan], BuildBackbone]] = {
    "dit": _network(dit_config, DiT),
    "vit": _network(vit_config, ViT),
    CNN_NAME: _network(cnn_config, NoisyCNN),
    "video": _network(video_config, Video),
    "encoder": _network(encoder_config, Encoder),
    "gpt": _network(gpt_config, GPT),
}


def task_parts(plan: Plan) -> TaskParts:
    """What there is for the task of a plan; an unknown task is a ``ValueError``."""
    if plan.task not in TASKS:
        raise ValueError(f"task={plan.task!r} is unknown; this version of oneblock trains: {', '.join(TASKS)}")
    return TASKS[plan.task]


def build_backbone(plan: Plan, backbone: BuildBackbone | None = None) -> BuildBackbone:
    """The builder of a plan's backbone: give it a range of layers.

    Args:
        backbone: the user's own, of a plan that names one.

    Raises:
        ValueError: the architecture is unknown, or the plan needs another backbone than was given.
    """
    name = plan.architecture.get("name")
    own = isinstance(name, str) and ":" in name
    if backbone is not None and not (own and _class_name(own_backbone(backbone).name) == _class_name(str(name))):
        raise ValueError(f"the plan was made for backbone {name!r}, this is {own_backbone(backbone).name!r}; give that")
    if backbone is not None:
        _check_kept(plan, own_backbone(backbone))
    if isinstance(name, str) and ":" in name:
        if backbone is None:
            raise ValueError(
                f"the network of this run is the user's own, {name}; give it too (backbone=..., --backbone {name})"
            )
        return with_relay(plan, lambda layers: backbone(layers=layers), backbone)  # type: ignore[call-arg]
    if not isinstance(name, str) or name not in NETWORKS:
        raise ValueError(f"architecture {name!r} is unknown; this version of oneblock builds: {', '.join(NETWORKS)}")
    return with_relay(plan, NETWORKS[name](plan), None)


def training_backbone(plan: Plan, backbone: BuildBackbone | None = None) -> BuildBackbone:
    """The same with what blocks have in training alone."""
    return with_projection(plan, build_backbone(plan, backbone))


def own_backbone(backbone: Callable[..., nn.Module]) -> OwnBackbone:
    """How a plan names a user's own network: ``"module:Class"``, the same from the program that defines it and from
    one that imports it. A ``schedule.Parametrisation`` that is its ``frame`` goes along."""
    named = getattr(backbone, "func", backbone)  # of a functools.partial
    module = named.__module__
    if module == "__main__":
        main = sys.modules["__main__"]
        file, spec = getattr(main, "__file__", None), getattr(main, "__spec__", None)
        module = spec.name if spec is not None else Path(file).stem if file else module
    frame = getattr(named, "frame", None)
    return OwnBackbone(
        f"{module}:{getattr(named, '__qualname__', type(named).__qualname__)}",
        frame_to_dict(frame) if isinstance(frame, Parametrisation) else {},
    )


def _check_kept(plan: Plan, backbone: OwnBackbone) -> None:
    """Refuse a network that keeps another frame than its plan says."""
    kept = frame_values(plan)
    if kept != {**({"target_scale": kept["target_scale"]} if "target_scale" in kept else {}), **backbone.frame}:
        said = [", ".join(f"{key}={value!r}" for key, value in one.items()) or "none" for one in (kept, backbone.frame)]
        raise ValueError(
            f"the plan was made for a network with the schedule ({said[0]}), but this one has ({said[1]}); convert it "
            "with the same scheduler (convert(..., scheduler=...))"
        )


def _class_name(name: str) -> str:
    """Without the module, which may be called otherwise elsewhere."""
    return name.rpartition(":")[2]


def load_backbone(name: str) -> BuildBackbone:
    """The class or function that ``"module:Class"`` names; the working directory is searched too.

    Raises:
        ValueError: it does not exist.
    """
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise ValueError(f"backbone={name!r} does not name a class; write module:Class, e.g. mine:Mixer")
    if "<" in attribute:
        raise ValueError(
            f"backbone={name!r} stands inside a function; move it to the top of a module, to be found by name"
        )
    if "" not in sys.path:
        sys.path.insert(0, "")
    token = LOADING.set(name)
    try:
        found: Any = import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"backbone={name!r} cannot be loaded ({error}); write module:Class of a module that can be imported here"
        ) from error
    finally:
        LOADING.reset(token)
    return cast(BuildBackbone, found)


def check_own(plan: Plan, backbone: BuildBackbone) -> None:
    """Try a user's own network on two samples without content, a layer at a time, before any work.

    Raises:
        ValueError: what does not keep the contract (``oneblock.backbone.check_backbone``).
    """
    parts = task_parts(plan)
    batch, frame, logits = parts.empty_batch(plan, 2, 0), parts.frame(plan), parts.num_logits(plan)
    z, sigma = batch.noised.z, batch.noised.sigma
    expected = tuple(batch.targets.shape) + (() if logits is None else (logits,))
    build = build_backbone(plan, backbone)
    inputs, noise = frame.inputs(z, sigma), frame.noise(sigma)
    try:
        check_backbone(build, plan.depth, inputs, noise, batch.condition, expected)
    except RuntimeError as error:  # what torch says of shapes that do not fit
        raise ValueError(
            f"{own_backbone(backbone).name} cannot be called on what the plan says, samples of {tuple(z.shape[1:])} "
            f"({str(error).splitlines()[0]}); give data, vocabulary and classes that fit the network"
        ) from error


def blockwise(plan: Plan, backbone: BuildBackbone | None = None) -> Blockwise:
    """Blocks of a plan, ready to be built one by one; ``backbone`` as in ``build_backbone``."""
    return Blockwise(build_backbone(plan, backbone), plan, task_parts(plan).frame(plan))


def training_blockwise(plan: Plan, backbone: BuildBackbone | None = None) -> Blockwise:
    """The same with what blocks have in training alone."""
    return Blockwise(training_backbone(plan, backbone), plan, task_parts(plan).frame(plan))


def block_parameters(plan: Plan, backbone: BuildBackbone | None = None) -> Parameters | None:
    """The trained parameters of every block of a plan, without content; None where its network is the user's own and
    ``backbone`` is not given."""
    if backbone is None and ":" in str(plan.architecture.get("name")):
        return None
    build = build_backbone(plan, backbone)

    @cache
    def parameters(block: int) -> dict[str, Tensor]:
        with without_content() if backbone is None else nullcontext():
            return {**trained_parameters(build(plan.layer_range(block)))}

    return parameters


class _Unfilled(TorchFunctionMode):
    """Leaves tensors as they are: to fill those of the meta device loads torch's compiler, for seconds."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name.endswith("_") and not name.endswith("__") and (args or kwargs):
            return args[0] if args else next(iter(kwargs.values()))
        return func(*args, **(kwargs or {}))


@contextmanager
def without_content() -> Iterator[None]:
    """Networks that are built here have shapes alone. One of more numbers than can be counted is a ``ValueError``."""
    try:
        with torch.device("meta"), _Unfilled():
            yield
    except (RuntimeError, TypeError, OverflowError) as error:  # what torch makes of sizes beyond 64 bits
        reason = str(error).splitlines()[0][:120]
        raise ValueError(f"the network cannot be built ({reason}); make it smaller, or restore its plan") from error


def plan_task(plan: Plan, source: Batches | None = None) -> Task:
    """The task of a plan; one that is told captions is trained on the labels of a ``source``, which count through
    them."""
    if source is not None and is_captioned(plan):
        return image_training_task(plan, source)
    return task_parts(plan).task(plan)


def plan_augment(plan: Plan) -> Augment | None:
    """How the training samples of a plan are changed at random."""
    return task_parts(plan).augment(plan)
