"""Films of Atari games that are played at random, as folders of frames: grey, square, a class for each game.

pip install ale-py pillow
python benchmarks/atari.py --out data/atari [--games pong breakout --films 40 --frames 160 --size 32]
oneblock train video --data folder:data/atari --frames 16 --channels 1 --out runs/atari

Every film is a game of its own, with its own seed; a frame stands for ``--skip`` frames of the game, in which one
action is held. The ROMs lie in the package.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from ale_py import ALEInterface, LoggerMode, roms
from PIL import Image


def record(game: str, folder: Path, seed: int, options: argparse.Namespace) -> None:
    """Play one game and write its frames; a game that is over begins again."""
    console = ALEInterface()
    console.setInt("random_seed", seed)
    console.setFloat("repeat_action_probability", 0.0)
    console.loadROM(roms.get_rom_path(game))
    actions, choice = console.getMinimalActionSet(), random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for frame in range(options.frames):
        action = choice.choice(actions)
        for _ in range(options.skip):
            console.act(action)
        if console.game_over():
            console.reset_game()
        picture = Image.fromarray(console.getScreenGrayscale())
        picture.resize((options.size, options.size), Image.Resampling.BOX).save(folder / f"{frame:05d}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--games", nargs="+", default=["pong", "breakout"], choices=sorted(roms.get_all_rom_ids()))
    parser.add_argument("--films", type=int, default=40, help="of each game")
    parser.add_argument("--frames", type=int, default=160)
    parser.add_argument("--skip", type=int, default=4)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    ALEInterface.setLoggerMode(LoggerMode.Error)
    for game in options.games:
        for film in range(options.films):
            record(game, options.out / game / f"film-{film:03d}", options.seed + film, options)
    print(f"{len(options.games) * options.films} films of {options.frames} frames in {options.out}")


if __name__ == "__main__":
    main()
