"""The items of the users that an analysis names, for the analyst's eyes only (PerFit, Figures 11-14)."""

from pathlib import Path

from configs.files import keep_out_of_git, write_atomic
from fl_clients.lamp.user_table import open_user

_ITEMS = 3
"""Of each user, the last ones."""


def write_texts(groups: dict[str, list[int]], users: Path, folder: Path) -> None:
    """Write users' last items to a file that only its owner can read.

    Args:
        groups: Partitions by the group's title.
        users: The run's user table.
        folder: Where to write `texts.txt`; it is kept out of git.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    keep_out_of_git(folder)
    lines = []
    for title, partitions in groups.items():
        for partition in partitions:
            user = open_user(users, partition)
            lines.append(f"{title}: {_one_line(user.user_id)}")
            lines += [f"  {_one_line(pair.source)}\n    -> {_one_line(pair.target)}" for pair in user.history[-_ITEMS:]]
    write_atomic(folder / "texts.txt", "\n".join([*lines, ""]), private=True)


def _one_line(text: str) -> str:
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
