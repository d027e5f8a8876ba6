"""What goes wrong on a real device is told on the device: an error's text may quote a user's."""

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from configs.errors import InputError


class DeviceError(RuntimeError):
    """What the server learns of an error on a device: its type and its place in the code."""


@contextmanager
def kept_on_device(store: Path, tell_input_errors: bool = False) -> Iterator[None]:
    """Write an error's traceback to `errors.log` in the device's store, and raise a `DeviceError` in its place.

    Flower sends the text of what a ClientApp raises to the server.

    Args:
        store: The device's store.
        tell_input_errors: Let an `InputError` pass: what was prepared wrongly, before any user's text is read.
    """
    try:
        yield
    except Exception as error:
        if tell_input_errors and isinstance(error, InputError):
            raise
        raise _kept(error, store) from None


def _kept(error: Exception, store: Path) -> DeviceError:
    store.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(store / "errors.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "a", encoding="utf-8", errors="replace") as file:
        file.write("".join(traceback.format_exception(error)) + "\n")
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(place.filename).name}, line {place.lineno}"
    return DeviceError(f"{type(error).__name__} in {where}; the traceback is in the device's errors.log")
