"""Downloading the official LaMP files: resumable, with a checksum written beside each."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import httpx

from configs.errors import InputError
from fl_clients.lamp.tasks import Task

ADDRESS = "https://ciir.cs.umass.edu/downloads/LaMP"
PARTS = ("train", "dev")
"""The parts with golds; LaMP keeps those of the test part to itself."""

Report = Callable[[str, int, int | None], None]
"""Takes a file's name, its bytes so far and, if the server says so, its bytes in all."""


def fetch_files(
    task: Task, split: Literal["time", "user"], out: Path, report: Report, address: str = ADDRESS
) -> list[Path]:
    """Download questions and outputs of both parts into `out/train` and `out/dev`.

    A file whose checksum lies beside it is left alone; an interrupted one goes on where it stopped.

    Args:
        task: Which task.
        split: `user`: other users in dev than in train; `time`: the same users, dev later.
        out: Folder; made if missing.
        report: Called as bytes arrive.
        address: Where LaMP is served.

    Raises:
        InputError: No network, the server refuses, or what it sends is no JSON file.
    """
    folder = f"{address.rstrip('/')}/{'time/' if split == 'time' else ''}{task.official_path}"
    files = []
    for part in PARTS:
        (out / part).mkdir(parents=True, exist_ok=True)
        for kind in ("questions", "outputs"):
            name = f"{part}_{kind}.json"
            files.append(_fetch(f"{folder}/{part}/{name}", out / part / name, report))
    return files


def _fetch(url: str, file: Path, report: Report) -> Path:
    checksum = file.with_name(f"{file.name}.sha256")
    if file.is_file() and checksum.is_file() and checksum.read_text().split()[:1] == [_sha256(file)]:
        report(file.name, file.stat().st_size, file.stat().st_size)
        return file
    part, version = file.with_name(f"{file.name}.part"), file.with_name(f"{file.name}.part.version")
    try:
        _download(url, part, version, report)
    except httpx.HTTPStatusError as error:
        raise InputError(
            f"{url}: the server answers {error.response.status_code}; is the address still right?"
        ) from None
    except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
        raise InputError(f"{url}: not an address: {error}") from None
    except httpx.HTTPError as error:
        raise InputError(
            f"{url} cannot be fetched ({error or type(error).__name__}); run the same command where there is a network "
            f"or once it is back: what has arrived stays in {part.name} and is not fetched again"
        ) from None
    with part.open("rb") as opened:
        if opened.read(64).lstrip()[:1] not in (b"[", b"{"):
            part.unlink()
            version.unlink(missing_ok=True)
            raise InputError(f"{url}: the server sent something that is no JSON; is the address still right?")
    checksum.write_text(f"{_sha256(part)}  {file.name}\n")
    part.replace(file)
    version.unlink(missing_ok=True)
    return file


def _download(url: str, part: Path, version: Path, report: Report) -> None:
    done = part.stat().st_size if part.is_file() and version.is_file() else 0
    # With If-Range a file that has changed on the server since is sent whole, not glued to the old beginning.
    headers = {"Accept-Encoding": "identity"}
    if done:
        headers |= {"Range": f"bytes={done}-", "If-Range": version.read_text()}
    with httpx.stream("GET", url, headers=headers, follow_redirects=True, timeout=30.0) as answer:
        if answer.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # complete already
        answer.raise_for_status()
        if answer.status_code != httpx.codes.PARTIAL_CONTENT:
            done = 0
        version.unlink(missing_ok=True)
        if tag := answer.headers.get("ETag") or answer.headers.get("Last-Modified"):
            version.write_text(tag)
        length = answer.headers.get("Content-Length")
        total = done + int(length) if length else None
        with part.open("ab" if done else "wb") as file:
            for chunk in answer.iter_raw():
                file.write(chunk)
                done += len(chunk)
                report(part.name.removesuffix(".part"), done, total)
    if total is not None and done != total:
        raise httpx.ReadError(f"{done} of {total} bytes arrived")


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
