"""The two ways a run can go wrong for the person who started it."""

import difflib


class InputError(Exception):
    """The command, the config or the data is wrong; nothing was trained (exit status 2).

    The message is one sentence that names the file, key or user and says what was expected.
    """


class TooFewUsers(InputError):
    """The users' source has fewer users than asked for."""

    def __init__(self, key: str, message: str) -> None:
        """Take the key that asks for too many, `users.collective` or `users.target`, and what to say."""
        super().__init__(message)
        self.key = key


class RunFailed(Exception):
    """The run started and did not complete (exit status 1)."""


def nearest(word: str, known: list[str]) -> str:
    """Return `"; did you mean 'x'?"` for the known word closest to `word`, or `""` if none is close."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""
