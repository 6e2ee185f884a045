"""Generation of video with a block linear diffusion transformer."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import ClassVar, Literal, cast

import torch

from oneblock.checks import check_count, check_number
from oneblock.framewise import FrameLevels, LevelPolicy
from oneblock.models.video import Streams, VideoConfig, frame_blocks
from oneblock.models.video_layers import Attention, RopeOrder
from oneblock.plan import Plain, Plan
from oneblock.presets.bands import GivenBands, cuts
from oneblock.presets.base import ImageFacts, OwnBackbone, Recipe, network_config
from oneblock.presets.image import image_shape, own_architecture
from oneblock.presets.names import class_setting
from oneblock.presets.objective import FLOW_SCALE, FlowTime, objective_frame
from oneblock.tasks.base import Batch, Noised
from oneblock.tasks.video import VideoGeneration

Objective = Literal["flow", "edm"]


@dataclass(frozen=True, kw_only=True)
class VideoRecipe(FlowTime, Recipe):
    """The network of a video generator and how its work is spent."""

    task: ClassVar[str] = "video"
    usual_data: ClassVar[str] = "bouncing-digits"
    rate_at_width_1: ClassVar[float] = 0.2

    patch: int = 0
    """pixels along a patch (0: 2, or 4 for frames of 32 pixels and more)"""
    block_frames: int = 4
    """frames that are made together; they see each other and all frames before (0: the whole clip)"""
    window: int | None = None
    """blocks of frames before its own that a frame sees (default: all); only linear attention without a window has a
    memory of one size"""
    attention: Attention = "linear"
    """linear attention, whose memory does not grow, or softmax over all keys and values"""
    rope: RopeOrder = "after"
    """turn queries and keys by their place after the ReLU of linear attention, before it, or not at all"""
    temporal: bool = True
    """whether the perceptrons end in a convolution over time"""
    levels: LevelPolicy = "clean"
    """noise of a clip's blocks of frames: a noisy block after clean ones, at twice the work for each clip (clean); one
    level for all (same); each its own (independent); noisier to the end, around a random block or before the last"""
    objective: Objective = "flow"
    """predict the velocity of a flow, or what EDM's preconditioning asks for"""
    bands: GivenBands = "equal-mass"
    """how the noise range is cut: by a rule; at B - 1 noise levels, noisiest first (2.5,0.4); or as a file says: a JSON
    list, one number a line, or a plan.json"""
    label_dropout: float = 0.1
    """share of labels replaced by the null class, for guidance"""
    first_clean: float = 0.1
    """share of clips whose first frame is given, so that a picture can be set in motion"""
    conditional: bool = True
    """whether the network is told the class of a clip; False for clips without classes"""
    max_frames: int = VideoConfig.max_frames
    """frames that a stream may have; nothing grows with it"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("patch", self.patch, 0)
        check_count("block_frames", self.block_frames, 0)
        check_number("label_dropout", self.label_dropout, least=0, below=1)
        check_number("first_clean", self.first_clean, least=0, below=1)
        self.check_time()

    def plan(self, facts: ImageFacts, backbone: OwnBackbone | None = None) -> Plan:
        if self.conditional and not facts.num_classes:
            raise ValueError(
                "conditional=True tells the network a class, but the clips have none; use conditional=False, or clips "
                "with classes"
            )
        if len(facts.shape) != 4:
            raise ValueError(
                f"samples have shape {facts.shape}; this network takes clips (frames, channels, height, width)"
            )
        num_classes = facts.num_classes if self.conditional else 0
        levels = self._levels(facts.shape[0])
        if backbone is None:
            architecture = self._network(facts, num_classes, levels)
        else:
            self._check_own()
            architecture = own_architecture(backbone, facts.shape, {"num_classes": num_classes}, self.dimensions[0])
        settings: dict[str, Plain] = {
            "autoencoder": facts.autoencoder,
            "objective": self.objective,
            "shift": self.shift,
            "levels": levels,
            "label_dropout": self.label_dropout,
            "first_clean": self.first_clean,
            **(class_setting(facts) if self.conditional else {}),
            **({"passes": 2} if levels == "clean" else {}),
            **({"fps": facts.fps} if facts.fps else {}),
        }
        return self._plan(facts, architecture, self.law(self.objective), cuts(self.bands), settings)

    def _levels(self, frames: int) -> LevelPolicy:
        """The policy, where a clip has several blocks."""
        return self.levels if len(frame_blocks(frames, self.block_frames)) > 1 else "same"

    def _network(self, facts: ImageFacts, num_classes: int, levels: LevelPolicy) -> dict[str, Plain]:
        depth, width, heads = self.dimensions
        config = VideoConfig(
            shape=facts.shape,
            depth=depth,
            width=width,
            heads=heads,
            patch=self.patch or (4 if facts.shape[2] >= 32 else 2),
            num_classes=num_classes,
            attention=self.attention,
            rope=self.rope,
            temporal=self.temporal,
            block_frames=self.block_frames,
            window=self.window,
            streams=streams_of(levels),
            max_frames=self.max_frames,
            noise_scale=FLOW_SCALE if self.objective == "flow" else VideoConfig.noise_scale,
        )
        return {"name": "video", **asdict(config), "shape": list(config.shape)}

    def _check_own(self) -> None:
        if self.block_frames:
            raise ValueError(
                f"block_frames={self.block_frames}: a network of your own is given whole clips; use block_frames=0"
            )


def streams_of(levels: LevelPolicy) -> Streams:
    """Whether a network is given every frame once, or clean and noisy."""
    return "two" if levels == "clean" else "one"


def video_config(plan: Plan) -> VideoConfig:
    """The network of a video plan."""
    return network_config(VideoConfig, plan)


def clean_level(plan: Plan) -> float:
    """The level that stands for clean frames: EDM's conditioning has none for 0."""
    return 0.0 if plan.recipe["objective"] == "flow" else plan.partition.law.low


def plan_frame_blocks(plan: Plan) -> tuple[int, ...]:
    """Frames of each block of a training clip."""
    return frame_blocks(image_shape(plan)[0], cast(int, plan.architecture.get("block_frames", 0)))


def video_task(plan: Plan) -> VideoGeneration:
    """The task of a video plan."""
    if plan.task != "video":
        raise ValueError(f"task={plan.task!r}: this plan is not for video; use a plan with task 'video'")
    recipe, blocks, law = plan.recipe, plan_frame_blocks(plan), plan.partition.law
    return VideoGeneration(
        objective_frame(plan),
        plan.partition,
        FrameLevels(cast(LevelPolicy, recipe["levels"]), law, len(blocks)),
        blocks,
        num_classes=cast(int, plan.architecture["num_classes"]),
        label_dropout=cast(float, recipe["label_dropout"]),
        first_clean=cast(float, recipe["first_clean"]),
        clean=clean_level(plan),
    )


def empty_videos(plan: Plan, count: int, block: int | None) -> Batch:
    """A batch of ``count`` clips without content."""
    task, shape = video_task(plan), image_shape(plan)
    shown = shape[0] * (1 + task.two_streams)
    clips, z, sigma = torch.empty(count, *shape), torch.empty(count, shown, *shape[1:]), torch.ones(count, shown)
    return Batch(Noised(z, sigma, block), clips, task.condition(torch.zeros(count, dtype=torch.long)))
