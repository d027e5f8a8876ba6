"""What `fedperfit cold-start` is asked, and what cannot be meant."""

from collections.abc import Sequence
from dataclasses import dataclass

from configs.errors import InputError


@dataclass(frozen=True)
class Question:
    """What a cold-start experiment asks."""

    collective: list[int]
    """Numbers of collective users; nested, so the fewer are among the more."""
    methods: list[str]
    """The first is the one that others are tested against."""
    tasks: list[str]
    """Empty: the config's."""
    seeds: list[int]
    history: list[int]
    """Items that newcomers bring, beside all of them; 0 is the collective shift alone."""
    epochs: list[int]
    """Epochs that newcomers train, beside the config's."""
    compositions: int
    """Groups of the smallest number of collective users, at least two; 0: only the first."""
    transfer: bool
    """Train the collective shift on each task, personalise on each other."""

    def check(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            InputError: Names the option.
        """
        options: dict[str, Sequence[object]] = {
            "--collective": self.collective,
            "--methods": self.methods,
            "--tasks": self.tasks,
            "--seeds": self.seeds,
            "--history": self.history,
            "--epochs": self.epochs,
        }
        for option, values in options.items():
            for value in values:
                if values.count(value) > 1:
                    raise InputError(f"{option}: {value} stands there twice")
                if isinstance(value, int) and value < (least := 0 if option in ("--history", "--seeds") else 1):
                    raise InputError(f"{option} {value}: expected at least {least}")
        if self.compositions < 0 or self.compositions == 1:
            raise InputError(f"--compositions {self.compositions}: expected at least 2 groups, or 0")
        for option in ("--collective", "--methods", "--seeds"):
            if not options[option]:
                raise InputError(f"{option}: expected at least one")
        if self.transfer and len(self.tasks) < 2:
            raise InputError("--transfer: expected at least two tasks in --tasks")
