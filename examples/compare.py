"""Compare two methods and say which is cheaper at the quality that both reach.

`python examples/compare.py` takes seconds with a tiny random model; its answers mean nothing. For figures, give it an
experiment with a real one: `python examples/compare.py configs/experiments/small.toml`.
"""

import sys
from pathlib import Path

from fedperfit import compare

TINY = str(Path(__file__).parents[1] / "configs" / "experiments" / "tiny.toml")


def main(experiment: str = TINY) -> None:
    """Run what is missing of the comparison and print three lines."""
    tiny = ["settings.rank=4", "settings.alpha=4"] if experiment.endswith("tiny.toml") else []
    report = compare(["lora-c", "oppu"], experiment, tiny, seeds=[0, 1], name="example-compare")
    for method in report.methods:
        quality, sent = method.quality, method.bytes.in_all / 1e6
        print(f"{method.method}: {report.metric} {quality.mean:.3f} ± {quality.std or 0:.3f} for {sent:.2f} MB")
        for share, reached in method.bytes_to_reach.items():
            if reached.mean_curve is not None:
                print(f"  {share} of {report.best}'s quality after {reached.mean_curve / 1e6:.2f} MB")
    test = report.methods[1].against
    if test is not None:
        verdict = "within noise" if test.within_noise else "more than noise"
        print(f"the difference of {test.difference:+.3f} is {verdict} (p = {test.p_adjusted:.2f})")


if __name__ == "__main__":
    main(*sys.argv[1:])
