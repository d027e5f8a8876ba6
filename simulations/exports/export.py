"""`fedperfit export`: writes the model a user of a run is served as files for other tools, with a model card."""

import importlib.metadata
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import jinja2
import pyarrow.compute as pc

from configs.errors import InputError
from configs.files import keep_out_of_git
from fl_clients.backbone.builtin import BUILT_IN
from fl_clients.lamp.tasks import find_task
from fl_server.record.folder import RunFolder
from simulations.display.tables import human_bytes
from simulations.exports.formats import FORMATS, place_of
from simulations.run.served import ServedModel, load_served_model
from strategies.hypernetwork.generated import Generated
from strategies.method import Method, has_personal_part

_DATA = {
    "synthetic": "synthetic users",
    "lamp": "files in LaMP's format",
    "oppu": "files in OPPU's layout",
    "devices": "users of a real federation, one per device",
}
_LICENCES = {
    "synthetic": "data: none, generated",
    "lamp": "data: that of the source files (LaMP's are CC BY-NC-SA 4.0)",
    "oppu": "data: that of the source files (LaMP's are CC BY-NC-SA 4.0)",
    "devices": "data: that of the users",
}
_BASE_LICENCES = {"smollm2-135m": "Apache-2.0", "tiny": "none, random weights"}


def export(folder: Path | str, user: str | None, chosen: str, out: Path | str) -> Path:
    """Export the model that a target user of a completed run is served, or the collective part only.

    Args:
        folder: The run record.
        user: The user's id; None exports the collective part only.
        chosen: `peft`, `pyreft` or `safetensors`.
        out: A folder that does not exist yet, or is empty.

    Returns:
        `out`.

    Raises:
        InputError: The run, user or format cannot be exported, or `out` is not empty.
    """
    folder, out = Path(folder), Path(out)
    if chosen not in FORMATS:
        raise InputError(f"expected one of {', '.join(FORMATS)}", field="format", value=chosen)
    if out.is_dir() and any(out.iterdir()):
        raise InputError("not empty", field="out", value=out)
    served = load_served_model(folder, user)
    if user is None and served.method.first_round is None:
        raise InputError(f"{folder}: {served.record.method} has no collective part; expected a user")
    if isinstance(served.adapter, Generated):  # what a network wrote is an adapter like any other
        served = replace(served, adapter=served.adapter.inner)
    existed = out.is_dir()
    try:
        out.mkdir(parents=True, exist_ok=True, mode=0o700)
        if user is not None:
            out.chmod(0o700)  # it holds what one user has learned
        keep_out_of_git(out)
    except OSError as error:
        raise InputError(f"cannot be created: {error.strerror}", field="out", value=out) from None
    try:
        snippet = FORMATS[chosen](served, out)
    except InputError:
        _clear(out)
        if not existed:
            out.rmdir()
        raise
    (out / "README.md").write_text(_card(served, folder, user, snippet), encoding="utf-8")
    return out


def _clear(folder: Path) -> None:
    """Remove what was written into a folder that was empty; the folder itself may be a mount."""
    for made in folder.iterdir():
        if made.is_dir():
            shutil.rmtree(made)
        else:
            made.unlink()


def _card(served: ServedModel, folder: Path, user: str | None, snippet: str) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.filters["bytes"] = human_bytes
    environment.filters["figures"] = _figures
    record, config = served.record, served.config
    task = find_task(record.task)
    up, down, history = (0, 0, 0) if served.partition is None else _of_user(folder, served.partition)
    return environment.get_template("card.md").render(
        record=record,
        config=config,
        user=user,
        versions=f"fedperfit {importlib.metadata.version('fedperfit')}",
        backbone=BUILT_IN.get(config.backbone, config.backbone),
        data=_DATA[record.users.source],
        learned=_learned(served),
        history=history,
        personal=has_personal_part(served.method),
        precedes=_precedes(served),
        user_up=up,
        user_down=down,
        licence=f"{_LICENCES[record.users.source]}; base model: {_BASE_LICENCES.get(config.backbone, 'its own')}",
        prompt=task.prompt,
        # pyreft's own `generate` takes positions, which depend on the prompt.
        asks="model = " in snippet and "pyreft" not in snippet,
        labels=bool(task.labels),
        length=task.max_new_tokens,
        place=place_of(served),
        example=repr(task.prompt.format(source="a text")),
        snippet=snippet,
        built_in=config.backbone in BUILT_IN,
    )


def _precedes(served: ServedModel) -> str:
    """Return what the prompts of a user's model begin with; empty for nothing."""
    reads = type(served.method).client_context is not Method.client_context or served.config.history.retrieve
    return "items of the user's history, or a text about them" if served.partition is not None and reads else ""


def _learned(served: ServedModel) -> str:
    config = served.config
    if served.method.first_round is None:
        return "no other users: this method has no collective part"
    if config.start_from:
        return f"the collective users of {config.start_from}"
    return f"{config.users.collective} collective users, {config.rounds} rounds of {config.cohort} users"


def _figures(metrics: Mapping[str, float], keys: Mapping[str, float]) -> str:
    return " | ".join(f"{metrics[key]:.3f}" for key in keys)


def _of_user(folder: Path, partition: int) -> tuple[int, int, int]:
    """Return the bytes up and down of one user's messages, and the user's number of history items."""
    ledger = RunFolder(folder).ledger(["user", "direction", "message_bytes"])
    messages = ledger.filter(pc.equal(ledger["user"], partition))
    up, down = (
        int(pc.sum(messages.filter(pc.equal(messages["direction"], direction))["message_bytes"]).as_py() or 0)
        for direction in ("up", "down")
    )
    users = RunFolder(folder).users(["partition", "history"]).to_pydict()
    return up, down, int(users["history"][users["partition"].index(partition)])
