"""The two ways a run can go wrong for the person who started it."""

import difflib


class InputError(Exception):
    """The command, the config or the data is wrong; nothing was trained (exit status 2).

    The message is one sentence that names the file, key or user and says what was expected.
    """

    def __init__(self, message: str, *, field: str | None = None, value: object = None) -> None:
        """Take the sentence, and which argument it is about.

        Args:
            message: What was expected.
            field: The argument's name as Python has it, such as `held_out`; the command line adds dashes.
            value: What was given; None if the field's name says enough.
        """
        super().__init__(message)
        self.message = message
        self.field = field
        self.value = value

    def __str__(self) -> str:
        """Return the sentence for someone who called a function."""
        if self.field is None:
            return self.message
        return f"{self.field}: {self.message}" if self.value is None else f"{self.field}={self.value}: {self.message}"

    def as_option(self) -> str:
        """Return the sentence for someone who gave a command."""
        if self.field is None:
            return self.message
        given = "" if self.value is None else f" {self.value}"
        return f"--{self.field.replace('_', '-')}{given}: {self.message}"


class TooFewUsers(InputError):
    """The users' source has fewer users than asked for."""

    def __init__(self, key: str, message: str) -> None:
        """Take the key that asks for too many, `users.collective` or `users.target`, and the sentence."""
        super().__init__(message)
        self.key = key


class RunFailed(Exception):
    """The run started and did not complete (exit status 1)."""


def nearest(word: str, known: list[str]) -> str:
    """Return `"; did you mean 'x'?"` for the known word closest to `word`, or `""` if none is close."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""
