"""Your own users: write their texts in LaMP's format, look at them, and simulate a federation of them.

`python examples/own_data.py` uses a tiny random model, whose answers mean nothing; add `backbone=smollm2-135m` for a
real one. docs/your-data.md describes the format and the six tasks.
"""

import json
import sys
from pathlib import Path

from fedperfit import load_config, simulate

TINY = Path(__file__).parents[1] / "configs" / "experiments" / "tiny.toml"
# Each person has reviewed three films with one of LaMP-2M's tags, and asks for the tag of another film.
FILMS = [("A duel at dawn.", "action"), ("Two clowns on a boat.", "comedy"), ("A ring in a lake.", "fantasy")]
ASKED = [
    ("A chase through the harbour.", "action"),
    ("A wedding without a groom.", "comedy"),
    ("A dragon wakes.", "fantasy"),
]
PEOPLE = [f"person{number}" for number in range(12)]


def write(folder: Path) -> None:
    """Write a folder with `dev_questions.json` and `dev_outputs.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    questions, golds = [], []
    for number, user in enumerate(PEOPLE):
        profile = [
            {"id": f"{user}-{place}", "description": f"{text} Seen by {user}.", "tag": tag}
            for place, (text, tag) in enumerate(FILMS)
        ]
        text, tag = ASKED[number % len(ASKED)]
        asked = f"Which tag does this movie relate to? tags: [comedy] description: {text} Asked by {user}."
        questions.append({"id": user, "user_id": user, "input": asked, "profile": profile})
        golds.append({"id": user, "output": tag})
    (folder / "dev_questions.json").write_text(json.dumps(questions))
    (folder / "dev_outputs.json").write_text(json.dumps({"task": "LaMP_2", "golds": golds}))


if __name__ == "__main__":
    folder = Path("results/example-films")
    write(folder)
    words = [f"users.source={folder}", "users.collective=8", "users.target=4", *sys.argv[1:]]
    record = simulate(load_config(TINY, words), "example-own-data", overwrite=True)
    print(f"{record.users.target} people asked: {record.metrics}, {record.bytes.total / 1e3:.0f} kB in all")
