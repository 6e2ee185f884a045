"""The texts of a folder: which of its files are documents, and why the others are not."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .progress import note
from .textfile import is_rows, is_text


@dataclass
class _Found:
    """Files by the names that they have below the folder, and how many others there are of each kind."""

    files: dict[str, Path] = field(default_factory=dict)
    others: Counter[str] = field(default_factory=Counter)

    def reasons(self) -> str:
        return ", ".join(f"{count} {reason}" for reason, count in self.others.most_common() if count)


def list_files(folder: Path) -> list[Path]:
    """All documents below ``folder``, .txt and .jsonl in any case, compressed or not, by name.

    Links are followed; a folder or linked file that is there already, as in a loop, is read once. Hidden ones and those
    of ``__MACOSX`` are not seen.

    Raises:
        ValueError: there are none.
    """
    found = _search(folder)
    if not found.files:
        others = f" (but {found.reasons()})" if found.others.total() else ""
        raise ValueError(
            f"{folder} has no .txt files{others}; .txt, one per document, and .jsonl are allowed; add texts or name "
            "another folder"
        )
    return [path for _, path in sorted(found.files.items())]


def tell_unused(folder: Path) -> None:
    """Note how many files of a folder are used, and why the others are not."""
    found = _search(folder)
    total = len(found.files) + found.others.total()
    if found.others.total():
        note(f"{folder}: {len(found.files)} of {total} files are used; not used: {found.reasons()}")


def _search(folder: Path) -> _Found:
    found = _Found()
    for path, name in _walk(folder, found):
        if _hidden(path.name):
            found.others["hidden"] += 1
        elif not path.is_file():
            found.others["broken links"] += 1
        elif not (is_text(path) or is_rows(path)):
            found.others[f"of the kind {path.suffix}" if path.suffix else "without a suffix"] += 1
        elif path.is_symlink() and _inside(path, folder):
            found.others["links to files of the same folder"] += 1
        else:
            found.files[name.as_posix()] = path
    return found


def _walk(folder: Path, found: _Found) -> Iterator[tuple[Path, Path]]:
    """Every file below a folder, and its name there: first what is in the folder itself, then what is behind links."""
    roots, seen = [folder], set[tuple[int, int]]()
    for root in roots:  # grows on the way
        for place, folders, files in os.walk(root):
            status = os.stat(place)
            if (status.st_dev, status.st_ino) in seen:
                folders.clear()
                found.others["folders linked a second time"] += 1
                continue
            seen.add((status.st_dev, status.st_ino))
            hidden = [name for name in folders if _hidden(name)]
            found.others["hidden"] += len(hidden)
            folders[:] = [name for name in folders if not _hidden(name)]
            roots += sorted(Path(place, name) for name in folders if os.path.islink(os.path.join(place, name)))
            yield from ((Path(place, name), Path(place, name).relative_to(folder)) for name in files)


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _inside(path: Path, folder: Path) -> bool:
    """Whether a link leads to a file that stands in the same folder under its own name."""
    return path.resolve().is_relative_to(folder.resolve())
