"""What the server says of one client's part in a round, besides the tensors."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from strategies.wire import read_secure


@dataclass(frozen=True)
class Turn:
    """One round's training of one client."""

    round: int
    last_turn: int = -1
    """The last round in which the server counted this user's update; −1 if none."""
    noise_multiplier: float = 0.0
    """Of the noise that this client adds (`privacy.kind = "local"`)."""
    sealed: Mapping[int, bytes] = field(default_factory=dict)
    """The others' shares for this client, by sender (`secure.aggregation`)."""
    most_examples: int = 1
    """The most examples of a user of the round, whose weight is 1."""

    @classmethod
    def of(cls, task: Mapping[str, Any]) -> Self:
        """Read a message's values."""
        names = ("round", "last_turn", "noise_multiplier", "most_examples")
        return cls(**{name: task[name] for name in names if name in task}, sealed=read_secure(task))
