"""Downloads the official LaMP files: resumable, with a checksum file next to each."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import httpx

from configs.errors import InputError
from fl_clients.lamp.tasks import Task

ADDRESS = "https://ciir.cs.umass.edu/downloads/LaMP"
PARTS = ("train", "dev")
"""The parts with golds; LaMP does not publish those of the test part."""

Report = Callable[[str, int, int | None], None]
"""Takes a file's name, its bytes so far and, if the server reports it, its size in bytes."""


def fetch_files(
    task: Task, split: Literal["time", "user"], out: Path, report: Report, address: str = ADDRESS
) -> list[Path]:
    """Download questions and outputs of both parts into `out/train` and `out/dev`.

    A file that matches its checksum file is skipped; an interrupted download continues where it stopped.

    Args:
        task: Which task.
        split: `user`: dev has other users than train; `time`: dev has the same users at a later time.
        out: Folder; created if missing.
        report: Called as bytes arrive.
        address: Base address of the LaMP files.

    Raises:
        InputError: There is no network, the server returns an error, or its response is not JSON.
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
            f"{url}: the server returned {error.response.status_code}; is the address still correct?"
        ) from None
    except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
        raise InputError(f"{url}: not a valid address: {error}") from None
    except (httpx.HTTPError, ValueError, ImportError) as error:  # also of a proxy that is none
        raise InputError(
            f"{url} cannot be fetched ({error or type(error).__name__}); run the same command again with a working "
            f"network: what has arrived is kept in {part.name} and not fetched again"
        ) from None
    with part.open("rb") as opened:
        begins = opened.read(64).lstrip()[:1]
        opened.seek(max(0, part.stat().st_size - 64))
        ends = opened.read().rstrip()[-1:]
    if (begins, ends) not in ((b"[", b"]"), (b"{", b"}")):
        part.unlink()
        version.unlink(missing_ok=True)
        what = "stops before its end" if begins in (b"[", b"{") else "is not JSON; is the address still correct?"
        raise InputError(f"{url}: the server's response {what}")
    checksum.write_text(f"{_sha256(part)}  {file.name}\n")
    part.replace(file)
    version.unlink(missing_ok=True)
    return file


def _download(url: str, part: Path, version: Path, report: Report) -> None:
    done = part.stat().st_size if part.is_file() and version.is_file() else 0
    # With If-Range, a file that has changed on the server is sent whole, not appended to the old beginning.
    headers = {"Accept-Encoding": "identity"}
    if done:
        headers |= {"Range": f"bytes={done}-", "If-Range": version.read_text()}
    with httpx.stream("GET", url, headers=headers, follow_redirects=True, timeout=30.0) as answer:
        if answer.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # already complete
        answer.raise_for_status()
        if url.startswith("https:") and answer.url.scheme != "https":
            raise httpx.UnsupportedProtocol(f"it leads to {answer.url}, which is not encrypted")
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
