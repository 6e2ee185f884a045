"""Video of bouncing digits, made block by block of frames, for as long as it is asked for.

python examples/video.py
"""

import itertools
from pathlib import Path

import torch

import oneblock as ob
from oneblock.report.video import write_video


def main(out: str = "runs/video", budget: str = "200k", clips: int = 4000) -> None:
    recipe = ob.VideoRecipe(size="nano", blocks=2, block_frames=4, budget=budget)
    data = ob.VideoData(data=f"bouncing-digits,clips={clips}", frames=12)
    ob.train(recipe, data=data, out=f"{out}/run")
    model = ob.Model.open(f"{out}/run")
    scores = model.evaluate(num_clips=0)
    print(f"held-out loss {scores['loss']:.3f}")
    blocks = list(itertools.islice(model.stream([3], steps=4), 10))  # without end, unless told when
    video = torch.cat(blocks, dim=1)
    print(f"video: uint8 {tuple(video.shape)} in {write_video(Path(out) / 'three.gif', video)}")


if __name__ == "__main__":
    main()
