"""Where a backbone comes from, in the words of transformers."""

from pathlib import Path

from fl_clients.backbone.source import pretrained


def test_a_hub_id_may_have_a_revision() -> None:
    assert pretrained("org/model@0123abc") == {
        "pretrained_model_name_or_path": "org/model",
        "revision": "0123abc",
        "trust_remote_code": False,
    }
    assert "revision" not in pretrained("org/model")


def test_a_folder_is_taken_as_it_is() -> None:
    folder = Path("/models/a@b")
    assert pretrained(folder) == {"pretrained_model_name_or_path": folder, "trust_remote_code": False}
