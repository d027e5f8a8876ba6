"""Errors that are reported to the user: invalid input and failed runs."""

import difflib


class InputError(Exception):
    """The command, the config or the data is invalid; nothing was trained (exit status 2).

    The message is one sentence that names the file, key or user and what was expected.
    """

    def __init__(self, message: str, *, field: str | None = None, value: object = None) -> None:
        """Store the message and the argument it is about.

        Args:
            message: What was expected.
            field: The argument's Python name, such as `held_out`; the command line adds dashes.
            value: The given value; None if the field's name is enough.
        """
        super().__init__(message)
        self.message = message
        self.field = field
        self.value = value

    def __str__(self) -> str:
        """Return the message for callers of the Python API."""
        if self.field is None:
            return self.message
        return f"{self.field}: {self.message}" if self.value is None else f"{self.field}={self.value}: {self.message}"

    def as_option(self) -> str:
        """Return the message for users of the command line."""
        if self.field is None:
            return self.message
        given = "" if self.value is None else f" {self.value}"
        return f"--{self.field.replace('_', '-')}{given}: {self.message}"


class TooFewUsers(InputError):
    """The user source has fewer users than requested."""

    def __init__(self, key: str, message: str) -> None:
        """Store the key whose count is too large, `users.collective` or `users.target`, and the message."""
        super().__init__(message)
        self.key = key


class RunFailed(Exception):
    """The run started and did not complete (exit status 1)."""


def nearest(word: str, known: list[str]) -> str:
    """Return `"; did you mean 'x'?"` for the known word closest to `word`, or `""` if none is close."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""
