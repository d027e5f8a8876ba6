"""Downloads from a local server: complete, resumed, changed meanwhile, refused."""

import functools
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from configs.errors import InputError
from fl_clients.lamp.fetch import fetch_files
from fl_clients.lamp.readers import find_source
from fl_clients.lamp.tasks import find_task
from tests.conftest import movie, write_lamp

MOVIES = find_task("movie_tagging")


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder with range requests; cuts connections after `cut_after` bytes if set."""

    def __init__(self, folder: Path) -> None:
        self.asked: list[tuple[str, str | None]] = []
        self.cut_after: int | None = None
        super().__init__(("127.0.0.1", 0), functools.partial(Handler, folder))


class Handler(http.server.BaseHTTPRequestHandler):
    """Supports GET, Range and If-Range."""

    def __init__(self, folder: Path, *args: object) -> None:
        self.folder = folder
        super().__init__(*args)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        assert isinstance(self.server, Server)
        asked = self.headers.get("Range")
        self.server.asked.append((self.path.rpartition("/")[2], asked))
        file = self.folder / self.path.lstrip("/")
        if not file.is_file():
            self.send_error(404)
            return
        assert self.headers.get("Accept-Encoding") == "identity"  # ranges count uncompressed bytes
        content = file.read_bytes()
        tag = f'"{hashlib.md5(content).hexdigest()}"'
        start = 0
        if asked and self.headers.get("If-Range") == tag:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                self.send_error(416)
                return
            self.send_response(206)
        else:
            self.send_response(200)
        self.send_header("ETag", tag)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:][: self.server.cut_after])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> Path:
    for split in ("", "time/"):
        for part, number in (("train", "1"), ("dev", "2")):
            folder = tmp_path / "served" / f"{split}LaMP_2/new/{part}"
            folder.mkdir(parents=True)
            write_lamp(folder, [movie(number)], [{"id": number, "output": "comedy"}])
            for file in folder.glob("dev_*"):
                file.rename(folder / file.name.replace("dev_", f"{part}_"))
    return tmp_path / "served"


@pytest.fixture
def server(served: Path) -> Iterator[Server]:
    server = Server(served)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def fetch(server: Server, out: Path, split: str = "user") -> list[Path]:
    address = f"http://127.0.0.1:{server.server_address[1]}"
    assert split in ("user", "time")
    return fetch_files(MOVIES, "time" if split == "time" else "user", out, lambda *_: None, address)


@pytest.mark.parametrize("split", ["user", "time"])
def test_both_parts_are_downloaded_with_checksums(server: Server, tmp_path: Path, split: str) -> None:
    files = fetch(server, tmp_path / "out", split)
    assert [file.name for file in files] == [
        f"{part}_{kind}.json" for part in ("train", "dev") for kind in ("questions", "outputs")
    ]
    for file in files:
        assert (file.parent / f"{file.name}.sha256").read_text().split() == [
            hashlib.sha256(file.read_bytes()).hexdigest(),
            file.name,
        ]
    (user,) = find_source(tmp_path / "out" / "train", MOVIES).users()
    assert user.user_id == "1"


def test_complete_files_are_not_fetched_again(server: Server, tmp_path: Path) -> None:
    (first, *_) = fetch(server, tmp_path / "out")
    server.asked.clear()
    fetch(server, tmp_path / "out")
    assert server.asked == []
    first.write_text("[]")  # damaged: it no longer matches its checksum
    fetch(server, tmp_path / "out")
    assert server.asked == [("train_questions.json", None)]


def test_an_interrupted_download_continues_where_it_stopped(server: Server, served: Path, tmp_path: Path) -> None:
    server.cut_after = 50
    with pytest.raises(
        InputError, match=r"train_questions.json cannot be fetched .* kept in train_questions.json.part"
    ):
        fetch(server, tmp_path / "out")
    assert (tmp_path / "out/train/train_questions.json.part").stat().st_size == 50
    server.cut_after = None
    server.asked.clear()
    (first, *_) = fetch(server, tmp_path / "out")
    assert server.asked[0] == ("train_questions.json", "bytes=50-")
    assert first.read_bytes() == (served / "LaMP_2/new/train/train_questions.json").read_bytes()
    assert not list((tmp_path / "out").rglob("*.part*"))


def test_a_file_that_changed_meanwhile_is_fetched_completely(server: Server, served: Path, tmp_path: Path) -> None:
    server.cut_after = 50
    with pytest.raises(InputError):
        fetch(server, tmp_path / "out")
    server.cut_after = None
    changed = json.dumps([movie("1", "Another film.")])
    (served / "LaMP_2/new/train/train_questions.json").write_text(changed)
    (first, *_) = fetch(server, tmp_path / "out")
    assert first.read_text() == changed


def test_a_web_page_instead_of_a_file_is_refused(server: Server, served: Path, tmp_path: Path) -> None:
    (served / "LaMP_2/new/train/train_questions.json").write_text("<!doctype html><html>Moved</html>")
    with pytest.raises(InputError, match="the server's response is not JSON"):
        fetch(server, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("train_questions*"))


def test_a_file_that_stops_before_its_end_is_refused_even_without_a_length(
    server: Server, served: Path, tmp_path: Path
) -> None:
    file = served / "LaMP_2/new/train/train_questions.json"
    file.write_text(file.read_text()[:-20])
    with pytest.raises(InputError, match=r"train_questions.json: the server's response stops before its end"):
        fetch(server, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("train_questions*"))


def test_a_missing_file_and_a_missing_network_are_reported(server: Server, served: Path, tmp_path: Path) -> None:
    (served / "LaMP_2/new/dev/dev_outputs.json").unlink()
    with pytest.raises(InputError, match=r"dev_outputs.json: the server returned 404; is the address still correct\?$"):
        fetch(server, tmp_path / "out")
    with pytest.raises(InputError, match="not a valid address"):
        fetch_files(MOVIES, "user", tmp_path / "none", lambda *_: None, "127.0.0.1:9")
    with pytest.raises(InputError, match="run the same command again with a working network"):
        fetch_files(MOVIES, "user", tmp_path / "none", lambda *_: None, "http://127.0.0.1:9")
