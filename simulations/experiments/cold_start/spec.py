"""What a cold-start experiment is asked, and what cannot be meant."""

from collections.abc import Sequence
from dataclasses import dataclass

from configs.errors import InputError


@dataclass(frozen=True)
class ColdStartSpec:
    """What `fedperfit cold-start` is asked."""

    collective: list[int]
    """Numbers of collective users. They are nested: the 10 are among the 100."""
    methods: list[str]
    """The others are tested against the first."""
    tasks: list[str]
    """Empty: the config's."""
    seeds: list[int]
    history: list[int]
    """Items that newcomers bring, beside all of them; 0 is the collective shift alone."""
    epochs: list[int]
    """Epochs that newcomers train, beside the config's."""
    compositions: int
    """Disjoint groups of the smallest number of collective users, at least two; 0: only the first."""
    transfer: bool
    """Train the collective shift on each task, and personalise on each other."""

    def check(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            InputError: Names the field.
        """
        fields: dict[str, Sequence[object]] = {
            key: getattr(self, key) for key in ("collective", "methods", "tasks", "seeds", "history", "epochs")
        }
        for key, values in fields.items():
            for value in values:
                if values.count(value) > 1:
                    raise InputError("given twice", field=key, value=value)
                if isinstance(value, int) and value < (least := 0 if key in ("history", "seeds") else 1):
                    raise InputError(f"expected at least {least}", field=key, value=value)
        if self.compositions < 0 or self.compositions == 1:
            raise InputError("expected at least 2 groups, or 0", field="compositions", value=self.compositions)
        for key in ("collective", "methods", "seeds"):
            if not fields[key]:
                raise InputError("expected at least one", field=key)
        if self.transfer and len(self.tasks) < 2:
            raise InputError("expected at least two tasks", field="transfer")
