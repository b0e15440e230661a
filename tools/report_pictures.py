"""Draw parts of a comparison's report as pictures, with Chromium.

    dualpath compare A B ... --report report
    python tools/report_pictures.py report/index.html docs/images/compare header '#ratios'

Writes docs/images/compare-1.png and so on, a picture for each part, which a CSS selector names.
"""

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

WIDTH = 980
N_COLOURS = 64
"""Enough for tables and lines; a picture stays under 60 kB."""


def draw(page: Path, begin: str, parts: list[str]) -> None:
    """Write a picture for each part."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
        shown = chromium.new_page(viewport={"width": WIDTH, "height": 800}, color_scheme="light")
        shown.goto(page.absolute().as_uri())
        for number, part in enumerate(parts, 1):
            png = shown.locator(part).first.screenshot()
            path = Path(f"{begin}-{number}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.open(io.BytesIO(png)).convert("RGB").quantize(N_COLOURS).save(path, optimize=True)
            print(f"{path}: {path.stat().st_size / 1000:.0f} kB")
        chromium.close()


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    draw(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
