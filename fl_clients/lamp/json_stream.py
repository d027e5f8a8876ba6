"""Reads a large JSON array one object at a time."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from configs.errors import InputError

_CHUNK = 1 << 20


def stream_array(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of one JSON array, holding one of them (and 1 MiB of text) at a time.

    Raises:
        InputError: The file cannot be read or is not an array of objects; the message gives the line.
    """
    # More than 50 lines in one function, because all steps share the buffer and the position in it.
    decoder = json.JSONDecoder()
    try:
        with path.open(encoding="utf-8-sig") as file:
            buffer, line, ended, first = "", 1, False, True

            def fail(what: str, at: int) -> InputError:
                return InputError(f"{path}, line {line + buffer.count(chr(10), 0, at)}: broken JSON: {what}")

            def more() -> bool:
                nonlocal buffer, ended
                # Doubling keeps an object of n chunks from being parsed n times.
                text = file.read(max(_CHUNK, len(buffer)))
                ended = not text
                buffer += text
                return not ended

            def skip(position: int) -> int:
                while True:
                    while position < len(buffer) and buffer[position] in " \t\r\n":
                        position += 1
                    if position < len(buffer) or ended or not more():
                        return position

            position = skip(0)
            if buffer[position : position + 1] != "[":
                raise fail("expected a list of users", position)
            position = skip(position + 1)
            while buffer[position : position + 1] != "]":
                if not first:
                    if buffer[position : position + 1] != ",":
                        raise fail("expected ',' or ']'", position)
                    position = skip(position + 1)
                line += buffer.count("\n", 0, position)
                buffer, position, first = buffer[position:], 0, False
                while True:
                    try:
                        value, position = decoder.raw_decode(buffer)
                        break
                    except json.JSONDecodeError as error:
                        # An error well before the end of the buffer cannot be fixed by more text.
                        unfinished = error.msg.startswith("Unterminated") or error.pos > len(buffer) - 16
                        if not unfinished or ended or not more():
                            raise fail(error.msg, error.pos) from None
                    except ValueError as error:  # a number with thousands of digits
                        raise fail(str(error), 0) from None
                if not isinstance(value, dict):
                    raise fail("expected an object", 0)
                yield value
                position = skip(position)
            if buffer[position + 1 :].strip():
                raise fail("text after the list", position + 1)
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
