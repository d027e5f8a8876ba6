"""The specification of a cold-start experiment and its checks."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from configs.errors import InputError


@dataclass(frozen=True)
class ColdStartSpec:
    """What `fedperfit cold-start` runs."""

    collective: list[int] = field(default_factory=lambda: [10, 100])
    """Numbers of collective users. They are nested: the 10 users are among the 100."""
    methods: list[str] = field(default_factory=lambda: ["perfit", "oppu"])
    """All others are tested against the first."""
    tasks: list[str] = field(default_factory=list)
    """Empty: the config's task."""
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    history: list[int] = field(default_factory=list)
    """Limits on newcomers' history items, in addition to `all`; 0 is what newcomers are sent without any."""
    epochs: list[int] = field(default_factory=lambda: [1])
    """Epochs that newcomers train, in addition to the config's."""
    compositions: int = 0
    """Disjoint groups of the smallest number of collective users, at least two; 0: only the first group."""
    transfer: bool = False
    """Train the collective shift on each task, and personalise on every other."""

    def check(self) -> None:
        """Refuse invalid values.

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
