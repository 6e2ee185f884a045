"""Draw colour emoji as 32 x 32 PNG files on white: OUT/{train,test}/{group}/{set}-{name}.png.

OUT/{train,test}/metadata.jsonl has their names as captions: ``captions:OUT`` reads these, ``folder:OUT`` the groups.
Reads unpacked ``@iconify-json`` packages, one folder per set. The label is the Unicode group. Variants by
skin tone and pictures equal to an earlier one are left out. Train and test are split by code point, never by
picture: another vendor's drawing of the same emoji is nearly a copy. A set without a table of code points
borrows those of the other sets by name, and pictures whose code point stays unknown are left out.

    python scripts/render_emoji.py SETS OUT
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import resvg_py
from PIL import Image

SIZE = 32
TEST_PERCENT = 10
SETS = ("noto", "twemoji", "fluent-emoji-flat", "noto-v1")
SKIN_TONES = {"1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"}
# one emoji may be written with or without this selector
PRESENTATION = "fe0f"


@dataclass(frozen=True)
class Emoji:
    """One drawing: where it belongs and its SVG text."""

    group: str
    file: str
    name: str
    code_point: str
    svg: str


def main() -> None:
    """Render all sets and print the number of pictures of each split and group."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", type=Path, metavar="SETS", help="folder of the unpacked packages")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the pictures")
    arguments = parser.parse_args()
    for place, count in sorted(write_all(arguments.sets, arguments.out).items()):
        print(f"{count:6d} {place}")


def write_all(sets: Path, out: Path) -> Counter[str]:
    """Write every picture once and count them by ``split/group``."""
    counts: Counter[str] = Counter()
    seen: set[bytes] = set()
    captions: dict[str, list[dict[str, str]]] = {"train": [], "test": []}
    for emoji in list_emoji(sets):
        picture = render(emoji.svg)
        # some sets draw several emoji alike, and copies must not stand on both sides of the split
        if picture.tobytes() in seen:
            continue
        seen.add(picture.tobytes())
        split = split_of(emoji.code_point)
        place = f"{split}/{emoji.group}"
        (out / place).mkdir(parents=True, exist_ok=True)
        picture.save(out / place / emoji.file)
        captions[split].append({"file_name": f"{emoji.group}/{emoji.file}", "text": emoji.name})
        counts[place] += 1
    for split, rows in captions.items():
        (out / split / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return counts


def list_emoji(root: Path) -> Iterator[Emoji]:
    """All drawings of all sets, less skin tones and unknown code points; the first set to name a group
    decides it."""
    code_points = {name: code for folder in SETS for name, code in _code_points(root / folder).items()}
    groups: dict[str, str] = {}
    for folder in SETS:
        icons = json.loads((root / folder / "icons.json").read_text())
        for name, category in sorted(_categories(root / folder).items()):
            code_point = code_points.get(name)
            if code_point is not None and not SKIN_TONES & set(code_point.split("-")):
                group = groups.setdefault(code_point, _slug(category))
                yield Emoji(group, f"{folder}-{name}.png", name.replace("-", " "), code_point, _svg(icons, name))


def split_of(code_point: str) -> str:
    """``test`` for one code point in ten, by its SHA-256, else ``train``."""
    digest = hashlib.sha256(code_point.encode()).digest()
    return "test" if int.from_bytes(digest[:8], "big") % 100 < TEST_PERCENT else "train"


def render(svg: str) -> Image.Image:
    """The drawing as RGB on white, SIZE x SIZE."""
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=SIZE, height=SIZE))
    drawing = Image.open(io.BytesIO(png)).convert("RGBA")
    canvas = Image.new("RGBA", (SIZE, SIZE), (255, 255, 255, 255))
    left, top = (SIZE - drawing.width) // 2, (SIZE - drawing.height) // 2
    canvas.alpha_composite(drawing, (left, top))
    return canvas.convert("RGB")


def _code_points(folder: Path) -> dict[str, str]:
    characters = json.loads((folder / "chars.json").read_text())
    return {name: _normal(code_point) for code_point, name in characters.items()}


def _categories(folder: Path) -> dict[str, str]:
    categories = json.loads((folder / "metadata.json").read_text())["categories"]
    return {name: category for category, names in categories.items() for name in names}


def _normal(code_point: str) -> str:
    return "-".join(part for part in code_point.lower().split("-") if part != PRESENTATION)


def _slug(category: str) -> str:
    return re.sub(r"[^a-z]+", "-", category.lower())


def _svg(icons: dict[str, Any], name: str) -> str:
    icon = icons["icons"][name]
    left, top = icon.get("left", 0), icon.get("top", 0)
    width, height = icon.get("width", icons.get("width", 16)), icon.get("height", icons.get("height", 16))
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}">{icon["body"]}</svg>'
    )


if __name__ == "__main__":
    main()
