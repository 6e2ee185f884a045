"""What tests of pages look for in HTML."""

import re
from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "img", "br", "hr", "input", "link"}
"""Elements without an end."""
REFERENCE = re.compile(r"""(?:href|srcset|action|poster|data|src)\s*=|url\(|@import|https?:""", re.IGNORECASE)


class Reader(HTMLParser):
    """Checks that tags are balanced and that nothing outside the page is named; keeps its text."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.words: list[str] = []
        self.tags: list[str] = []
        self.references: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [f"{k}={v}" for k, v in attrs if k in ("src", "href") and not str(v).startswith("data:")]
        assert len({name for name, _ in attrs}) == len(attrs), f"an attribute of <{tag}> stands twice: {attrs}"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> ends nothing; open are {self.open}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words.append(data)


def read_page(path: Path) -> str:
    """The text of a page, blanks joined; it must be whole, and refer to nothing outside itself."""
    text = path.read_text("utf-8")
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == [], "all tags are closed"
    assert reader.references == []
    assert not re.search(r"url\(|@import|https?:", text), "nothing is fetched"
    assert "script" not in reader.tags and "link" not in reader.tags
    return " ".join(" ".join(reader.words).split())
