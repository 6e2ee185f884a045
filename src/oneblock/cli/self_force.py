"""``oneblock self-force``."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from oneblock.cli import console
from oneblock.cli.opening import Opening
from oneblock.model import VideoModel
from oneblock.train.self_forcing import Forced, SelfForcing


@dataclass(frozen=True, kw_only=True)
class SelfForce(Opening):
    """Train a video generator on, with videos that it makes itself: the second stage.

    Videos are made block by block of frames with the sampler renoise in a few steps, one of which has a gradient, and
    judged by distribution matching against the network as it was. Three networks are in memory, with all their blocks
    of layers. The run or model that is given stays as it is. This stage does not go on where it was stopped.
    """

    out: Path
    """directory of the new model"""
    forcing: SelfForcing = field(default_factory=SelfForcing)

    def run(self) -> None:
        model = self.open(VideoModel)
        made = model.self_force(self.out, self.forcing, told=self._tell)
        if self.json:
            console.emit({"model": str(self.out), "plan": made.plan.hash, **asdict(self.forcing)})
            return
        steps = self.forcing.steps
        console.say(f"trained {self.out}; next: oneblock sample {self.out} --sampler renoise --steps {steps}")

    def _tell(self, forced: Forced) -> None:
        console.teller(self.json)(
            f"update {forced.update} of {self.forcing.updates}: loss {forced.loss:.4f}, critic {forced.critic_loss:.4f}"
        )
