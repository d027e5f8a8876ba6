"""Opens the text files that people bring: compressed or not, in any Unicode encoding, named in several ways."""

import io
import json
import lzma
import re
from pathlib import Path
from typing import IO

import pyarrow as pa

from configs.errors import InputError

_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4"}
_XZ = b"\xfd7zXZ\x00"
_NO_TEXT = {
    b"version https://git-lfs": "a Git LFS pointer, not the file itself; fetch it with `git lfs pull`",
    b"PK\x03\x04": "a zip archive; unpack it first",
    b"Rar!": "a RAR archive; unpack it first",
    b"7z\xbc\xaf": "a 7z archive; unpack it first",
    b"PAR1": "a Parquet table",
    b"ARROW1": "an Arrow table",
    b"SQLite format 3": "an SQLite database",
    b"\x89HDF": "an HDF5 file",
    b"\x80": "a Python pickle, which is never opened",
    b"<": "an HTML or XML page, perhaps a download's error page",
}
"""What a file begins with, and what it is. Each of them is refused as not being LaMP's JSON."""

_SUFFIX = r"\.(json|jsonl|ndjson)(\.(gz|bz2|zst|lz4|xz))?"


def find_json(folder: Path, stem: str) -> list[Path]:
    """Return the files in `folder` that are called `stem` (a regular expression) with a suffix of JSON, sorted by name.

    Known suffixes are `.json`, `.jsonl` and `.ndjson`, alone or followed by that of a compressed file.
    """
    return sorted(path for path in folder.iterdir() if re.fullmatch(stem + _SUFFIX, path.name) and path.is_file())


def stem_of(path: Path) -> str:
    """Return a file's name without the suffixes that `find_json` knows."""
    return re.sub(f"{_SUFFIX}$", "", path.name)


def open_text(path: Path) -> IO[str]:
    """Open a text file: gzip, bz2, zstd, lz4 or xz is unpacked while reading; UTF-8, UTF-16 and UTF-32 are recognised.

    Raises:
        InputError: The file is something else than text, such as an archive; the message says what it is.
        OSError: It cannot be opened.
    """
    with _unpacked(path) as file:
        beginning = file.read(1024)
    for start, kind in _NO_TEXT.items():
        if beginning.lstrip().startswith(start):
            raise InputError(f"{path}: this is {kind}; expected LaMP's JSON")
    if not beginning:
        raise InputError(f"{path}: this file is empty; expected LaMP's JSON")
    return io.TextIOWrapper(_unpacked(path), encoding=json.detect_encoding(beginning))


def _unpacked(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        beginning = file.read(8)
    if beginning.startswith(_XZ):
        return lzma.open(path)
    kinds = [kind for start, kind in _COMPRESSED.items() if beginning.startswith(start)]
    stream: IO[bytes] = pa.input_stream(str(path), compression=kinds[0]) if kinds else path.open("rb")
    return stream
