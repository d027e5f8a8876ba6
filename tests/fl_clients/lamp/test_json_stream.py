"""Large JSON arrays are read one object at a time."""

import json
import tracemalloc
from pathlib import Path

import pytest

from configs.errors import InputError
from fl_clients.lamp import json_stream
from fl_clients.lamp.json_stream import stream_objects


def test_streaming_crosses_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "_CHUNK", 7)
    objects = [{"n": n, "text": "é🙂 \n" * n, "deep": [{"a": [n]}]} for n in range(30)]
    path = tmp_path / "big.json"
    path.write_text(" \n" + json.dumps(objects, indent=2, ensure_ascii=False) + "\n ", encoding="utf-8")
    assert list(stream_objects(path)) == objects
    path.write_text(json.dumps(objects, indent=2)[:-30])
    with pytest.raises(InputError, match=r"big\.json, line \d+: broken JSON: .*: the file ends here, so it may"):
        list(stream_objects(path))


def test_a_syntax_error_is_found_without_reading_the_rest_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "big.json"
    path.write_text('[{"a": 1 "b": 2},' + '{"c": "' + "x" * 40_000_000 + '"}]')
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=r"big.json, line 1: broken JSON: Expecting ',' delimiter"):
            list(stream_objects(path))
        assert tracemalloc.get_traced_memory()[1] < 12e6
    finally:
        tracemalloc.stop()
