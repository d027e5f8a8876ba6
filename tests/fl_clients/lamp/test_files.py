"""Files as people's tools write them: compressed, in other encodings, one object per line, or not LaMP's at all."""

import bz2
import gzip
import json
import lzma
from pathlib import Path

import pyarrow as pa
import pytest

from configs.errors import InputError
from fl_clients.lamp.json_stream import read_objects
from fl_clients.lamp.readers import find_source
from fl_clients.lamp.tasks import find_task
from tests.conftest import movie

OBJECTS = [{"id": "1", "text": "é 東京"}, {"id": "2"}]
ARRAY = json.dumps(OBJECTS, ensure_ascii=False)
LINES = "\n".join(json.dumps(each, ensure_ascii=False) for each in OBJECTS) + "\n"


def zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return bytes(sink.getvalue())


@pytest.mark.parametrize("text", [ARRAY, LINES, LINES.replace("\n", "\r\n"), f"\n {LINES} \n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress, lzma.compress, zstd])
def test_content_decides_how_a_file_is_read(text: str, encoding: str, compress: type[bytes], tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(
        compress(text.strip("\n ").encode(encoding) if "16" in encoding else text.encode(encoding))
    )
    assert read_objects(tmp_path / "file") == OBJECTS


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "a Git LFS pointer"),
        (b"", "this file is empty"),
        (b"PK\x03\x04rest", "a zip archive"),
        (b"\n<!DOCTYPE html><p>404", "an HTML or XML page"),
        (b"PAR1rest", "a Parquet table"),
        (b"\x80\x04rest", "a Python pickle, which is never opened"),
        (gzip.compress(ARRAY.encode(), mtime=0)[:-9], "cannot be read: Truncated compressed stream"),
        (lzma.compress(ARRAY.encode())[:-9], "cannot be read: Compressed file ended"),
        (ARRAY.encode("latin-1", "replace"), "not Unicode text"),
        (b"id,text\n1,a\n", "line 1: broken JSON: expected a list of objects, or an object per line"),
        (LINES.encode()[:-4], "line 2: broken JSON"),
        (b'{"id": "1"}\n[1]\n', "line 2: broken JSON: expected an object"),
    ],
)
def test_other_files_are_named_as_what_they_are(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "dev_questions.json").write_bytes(content)
    with pytest.raises(InputError, match=rf"dev_questions\.json.*{message}"):
        read_objects(tmp_path / "dev_questions.json")


@pytest.mark.parametrize("suffix", ["json", "jsonl", "ndjson", "json.gz", "jsonl.gz"])
def test_files_are_found_by_all_their_names(suffix: str, tmp_path: Path) -> None:
    compress = gzip.compress if suffix.endswith("gz") else bytes
    golds = {"task": "LaMP_2", "golds": [{"id": "1", "output": "comedy"}]}
    (tmp_path / f"dev_questions.{suffix}").write_bytes(compress(json.dumps([movie("1")]).encode()))
    (tmp_path / "dev_outputs.json").write_text(json.dumps(golds))
    (user,) = find_source(tmp_path, find_task("movie_tagging")).users()
    assert [query.target for query in user.queries] == ["comedy"]


@pytest.mark.parametrize(
    "golds",
    [
        '[{"id": 1, "output": "Comedy "}]',
        '{"id": 1.0, "output": "comedy"}\n',
        '{"task": "LaMP-2M", "golds": [{"id": "1", "output": "comedy"}]}',
    ],
)
def test_golds_are_read_in_other_spellings(golds: str, tmp_path: Path) -> None:
    (tmp_path / "dev_questions.json").write_text(json.dumps([movie("1")]))
    (tmp_path / "dev_outputs.json").write_text(golds)
    (user,) = find_source(tmp_path, find_task("movie_tagging")).users()
    assert [query.target for query in user.queries] == ["comedy"]
