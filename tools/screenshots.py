"""Takes the pages' screenshots of a report: `python tools/screenshots.py results/reference/movies`.

Needs the `dev` extra and Debian's Chromium. The screenshots are written to `docs/images/`.
"""

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Literal

from playwright.sync_api import Page, sync_playwright

from fedperfit import write_page

IMAGES = Path(__file__).parents[1] / "docs" / "images"
_DRAWN = "(place) => place.querySelector('svg')"


def main() -> None:
    """Take the screenshots."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="run records, comparisons or cold-start experiments")
    folders = parser.parse_args().folders
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as driver:
        page = write_page(folders, Path(scratch) / "report.html")
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        themes: tuple[tuple[Literal["light", "dark"], int], ...] = (("light", 1300), ("dark", 1900))
        for theme, width in themes:
            tab = browser.new_page(viewport={"width": width, "height": 1000}, color_scheme=theme)
            tab.goto(page.as_uri())
            capture(tab, IMAGES / f"report-{theme}.png")
        tab = browser.new_page(viewport={"width": 390, "height": 844}, device_scale_factor=2)
        tab.goto(page.as_uri())
        capture(tab, IMAGES / "report-phone.png")
        browser.close()


def capture(tab: Page, path: Path) -> None:
    """Take a screenshot of the first screen, once its figure is drawn."""
    tab.wait_for_function(_DRAWN, arg=tab.query_selector(".plot"))
    tab.screenshot(path=path)
    print(path)


if __name__ == "__main__":
    main()
