"""The site (``make docs``) has every page and every public name; building it takes mkdocs, and this does not."""

import re
from pathlib import Path

import oneblock as ob

ROOT = Path(__file__).parents[1]
SETTINGS = (ROOT / "mkdocs.yml").read_text()
DOCS = ROOT / "docs"


def test_the_navigation_has_every_page() -> None:
    listed = re.findall(r"^ +- [^:\n]+: (\S+\.md)$", SETTINGS, re.MULTILINE)
    assert sorted(listed) == sorted(path.name for path in DOCS.glob("*.md"))
    assert len(set(listed)) == len(listed)


def test_the_reference_has_every_public_name_at_its_place() -> None:
    listed = re.findall(r"^::: oneblock\.(\S+)$", (DOCS / "api.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(f"{place}.{name}" for name, place in ob._PLACES.items())


def test_pages_link_to_pages_that_are_there() -> None:
    for page in DOCS.glob("*.md"):
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            assert target.startswith("https://") or (DOCS / target.partition("#")[0]).is_file(), (page.name, target)


def test_nothing_is_loaded_from_elsewhere() -> None:
    assert "  font: false\n" in SETTINGS, "else Google's fonts are"
    assert "http" not in SETTINGS
