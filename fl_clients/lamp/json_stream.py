"""Reads the objects of a large JSON file one at a time."""

import json
import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from configs.errors import InputError
from fl_clients.lamp.files import open_text

_CHUNK = 1 << 20


def _without_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} stands twice in an object")
    return unique


_DECODER = json.JSONDecoder(object_pairs_hook=_without_repeated_keys)


def stream_objects(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON array or of JSON Lines, holding one of them (and 1 MiB of text) at a time.

    Raises:
        InputError: The file cannot be read or holds anything but objects; the message gives the line.
    """
    try:
        with open_text(path) as file:
            yield from _objects(_Text(path, file))
    except (OSError, EOFError, lzma.LZMAError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    except UnicodeError as error:
        raise InputError(f"{path}: not Unicode text ({error}); convert it to UTF-8, for instance by iconv") from None


def read_objects(path: Path) -> list[dict[str, Any]]:
    """Return all objects of a JSON array or of JSON Lines; a file of one object is a list of one.

    Raises:
        InputError: As `stream_objects`.
    """
    return list(stream_objects(path))


def _objects(text: "_Text") -> Iterator[dict[str, Any]]:
    start = text.next()
    if start not in ("[", "{"):
        raise text.fail("expected a list of objects, or an object per line")
    array = start == "["
    if array:
        text.step()
    end, first = "]" if array else "", True
    while text.next() != end:
        if array and not first:
            if text.next() != ",":
                raise text.fail("expected ',' or ']'")
            text.step()
            text.next()
        first = False
        yield text.value()
    if array:
        text.step()
        if text.next():
            raise text.fail("text after the list")


class _Text:
    """A file's text from a position onwards."""

    def __init__(self, path: Path, file: IO[str]) -> None:
        self._path, self._file = path, file
        self._buffer, self._position = "", 0
        self._line = 1
        self._ended = False

    def next(self) -> str:
        """Skip white space; return the next character, or `""` at the end."""
        while True:
            buffer = self._buffer
            while self._position < len(buffer) and buffer[self._position] in " \t\r\n":
                self._position += 1
            if self._position < len(buffer):
                return buffer[self._position]
            if self._ended or not self._more():
                return ""

    def step(self) -> None:
        """Pass over one character."""
        self._position += 1

    def value(self) -> dict[str, Any]:
        """Parse the object at the position and pass over it."""
        self._line += self._buffer.count("\n", 0, self._position)
        self._buffer, self._position = self._buffer[self._position :], 0
        while True:
            try:
                value, self._position = _DECODER.raw_decode(self._buffer)
                break
            except json.JSONDecodeError as error:
                # An error well before the end of the buffer cannot be fixed by more text.
                unfinished = error.msg.startswith("Unterminated") or error.pos > len(self._buffer) - 16
                if not unfinished or self._ended or not self._more():
                    self._position = error.pos
                    cut = ": the file ends here, so it may be cut off" if unfinished and self._ended else ""
                    raise self.fail(f"{error.msg}{cut}") from None
            except ValueError as error:  # a repeated key, or a number with thousands of digits
                raise self.fail(str(error)) from None
        if not isinstance(value, dict):
            self._position = 0
            raise self.fail("expected an object")
        return value

    def fail(self, what: str) -> InputError:
        """Return an error at the position."""
        line = self._line + self._buffer.count("\n", 0, self._position)
        return InputError(f"{self._path}, line {line}: broken JSON: {what}")

    def _more(self) -> bool:
        # Doubling keeps an object of n chunks from being parsed n times.
        text = self._file.read(max(_CHUNK, len(self._buffer)))
        self._ended = not text
        self._buffer += text
        return not self._ended
