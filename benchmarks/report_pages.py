"""Report pages in headless Chromium: do they ask a network for anything, are they too wide, do texts overlap?

    python benchmarks/report_pages.py report.html --out pictures --chromium /usr/bin/chromium

Needs playwright and a Chromium. Every page is opened on a desk (1280 pixels) and on a phone (390), light and dark; a
row is printed for each, and a picture of the whole page is written to ``--out``. The exit code is 1 where one fails.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

WIDTHS = (1280, 390)
OVERLAPS = """() => {
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), boxes = [], found = [];
  while (texts.nextNode()) {
    const text = texts.currentNode.textContent.trim(), shown = texts.currentNode.parentElement.checkVisibility();
    if (!text || !shown) continue;
    const range = document.createRange();
    range.selectNodeContents(texts.currentNode);
    for (const box of range.getClientRects()) if (box.width > 1 && box.height > 1) boxes.push([text.slice(0, 40), box]);
  }
  boxes.forEach(([a, p], i) => boxes.slice(i + 1).forEach(([b, q]) => {
    const wide = Math.min(p.right, q.right) - Math.max(p.left, q.left);
    const high = Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top);
    if (wide > 2 && high > 4) found.push([a, b]);
  }));
  return {texts: boxes.length, overlaps: found, too_wide: document.documentElement.scrollWidth > innerWidth};
}"""


def looked_at(page: Path, out: Path, chromium: str) -> Iterator[dict[str, Any]]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for width in WIDTHS:
            for scheme in ("light", "dark"):
                tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
                asked: list[str] = []
                tab.on("request", lambda request, asked=asked: asked.append(request.url[:80]))
                tab.goto(page.resolve().as_uri())
                requests = [url for url in asked if not url.startswith(("file:", "data:"))]
                tab.screenshot(path=out / f"{page.stem}-{width}-{scheme}.png", full_page=True)
                found = tab.evaluate(OVERLAPS)
                yield {"page": page.name, "width": width, "scheme": scheme, "requests": requests, **found}
                tab.close()
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    failed = False
    for page in options.pages:
        for row in looked_at(page, options.out, options.chromium):
            print(json.dumps(row), flush=True)
            failed = failed or bool(row["requests"] or row["overlaps"] or row["too_wide"])
    sys.exit(int(failed))


if __name__ == "__main__":
    main()
