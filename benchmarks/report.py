"""Measures how long a report takes to open in headless Chromium: `python -m benchmarks.report`.

The report shows a real comparison of eight methods (`tiny`, 100 users), which is run first if it is missing.
"""

import argparse
import json
import shutil
import statistics
from pathlib import Path

from simulations.experiments.compare import compare
from simulations.report.page import write_page

METHODS = ["perfit", "oppu", "fdlora", "lora-c", "lora-p", "ffa-lora", "fedsa-lora", "reft-c"]
WORDS = [
    "backbone=tiny",
    "engine=inline",
    "sites=[1,2]",
    "rank.shared=4",
    "rank.private=2",
    "users.collective=80",
    "users.target=20",
    "users.synthetic.history=8",
    "users.synthetic.queries=8",
    "cohort=8",
    "rounds=8",
    "evaluate.every=2",
]


_DRAWN = "() => document.querySelector('.plot svg') !== null"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder for the comparison")
    parser.add_argument("--repeats", type=int, default=5, help="how many times the page is opened")
    args = parser.parse_args()
    compare(METHODS, overrides=WORDS, seeds=[0], name="bench-report", results=args.results)
    page = write_page([args.results / "bench-report"], args.results / "bench-report" / "report.html")
    seconds = [open_page(page) for _ in range(args.repeats)]
    outcome = {"bytes": page.stat().st_size, "seconds": seconds, "median_s": statistics.median(seconds)}
    print(json.dumps(outcome, indent=1))


def open_page(page: Path) -> float:
    """Return the seconds from requesting the page until its cost curves are drawn, in a running browser."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page()
        tab.goto("about:blank")
        tab.goto(page.resolve().as_uri(), wait_until="load")
        # Figures are drawn when scrolled near, so scroll to the first one, the cost curves.
        tab.evaluate("document.querySelector('.plot').scrollIntoView()")
        tab.wait_for_function(_DRAWN)
        milliseconds: float = tab.evaluate("performance.now()")
        browser.close()
    return milliseconds / 1000


if __name__ == "__main__":
    main()
