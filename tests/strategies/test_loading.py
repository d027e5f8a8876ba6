"""A method's own file: types of its settings, also where they are text."""

from pathlib import Path

import pytest

from strategies.loading import load_method

METHOD = """
from __future__ import annotations

from typing import Literal

from strategies.method import Method


class Own(Method):
    name = "own"
    first_round = 1

    def __init__(self, kind: {type}) -> None:
        self.kind = kind

    def server_init(self, backbone): ...
    def server_aggregator(self, state, round_number): ...
    def client_attach(self, model, backbone): ...
    def client_train(self, adapter, request): ...
    def client_load(self, adapter, shared, private): ...
"""


def test_types_that_are_text_are_checked(tmp_path: Path) -> None:
    (tmp_path / "typed_as_text.py").write_text(METHOD.format(type='Literal["a", "b"]'))
    method = load_method("typed_as_text:Own", {}, {"kind": "a"}, [str(tmp_path)])
    assert vars(method)["kind"] == "a"
    with pytest.raises(ValueError, match=r"settings.kind='c': input should be 'a' or 'b'"):
        load_method("typed_as_text:Own", {}, {"kind": "c"}, [str(tmp_path)])


def test_a_type_that_is_not_known_is_named(tmp_path: Path) -> None:
    (tmp_path / "typed_as_nothing.py").write_text(METHOD.format(type="Kind"))
    with pytest.raises(ValueError, match=r"method 'typed_as_nothing:Own': a type .* is not known: name 'Kind'"):
        load_method("typed_as_nothing:Own", {}, {"kind": "a"}, [str(tmp_path)])
