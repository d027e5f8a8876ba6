"""What all clients of a process share: loaded once, bound to one run."""

import contextlib
import time
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path

from configs.files import append_line
from configs.import_path import read_import_path
from configs.load import read_resolved
from configs.schema import RunConfig
from fl_clients.backbone.activation_store import ActivationStore, activation_folder, fingerprint
from fl_clients.backbone.batches import Encoder
from fl_clients.backbone.forward import Forward
from fl_clients.backbone.frozen_prefix import FrozenPrefix, shares_keys
from fl_clients.backbone.load import Backbone, load, resolve_precision
from fl_clients.coding import ClientCoding
from fl_clients.fit import Gradient
from fl_clients.lamp.tasks import Task, find_task
from fl_clients.predict import stop_tokens
from fl_clients.process.partition import Partition
from strategies.loading import load_method
from strategies.method import Adapter, Method


def open_session(run_dir: Path) -> "Session":
    """Return this process's session of a run; the first call creates it."""
    # Keyed by the config's content: a notebook may run another config under the same name.
    return _open_session(run_dir, (run_dir / "config.toml").read_bytes())


@lru_cache(maxsize=1)
def _open_session(run_dir: Path, _config: bytes) -> "Session":
    return Session(run_dir)


class Session:
    """Backbone, adapter, task and settings of one run in this process."""

    def __init__(self, run_dir: Path) -> None:
        """Load what the run record's config specifies."""
        self._run_dir = run_dir
        self.config: RunConfig = read_resolved(run_dir / "config.toml")
        self.partition = Partition(self.config.partitions, run_dir / ".partitions")
        self.task: Task = find_task(self.config.task)
        gpu = self.config.partitions.gpus > 0
        self.backbone: Backbone = load(self.config.backbone, resolve_precision(self.config.precision, gpu), gpu)
        limit = self.config.activations_mb * 1_000_000
        folder = activation_folder() if limit else None
        # Computed before the adapter is attached: what a method adds to the model is not frozen.
        identity = fingerprint(self.backbone.model) if folder else ""
        self.method: Method = load_method(
            self.config.method, self.config.method_values(), self.config.settings, read_import_path(run_dir)
        )
        self.adapter: Adapter = self.method.client_attach(self.backbone.model, self.backbone.shape)
        self.coding = ClientCoding(self.config, self.method, self.backbone.shape)
        self.plain = Forward(self.backbone, None)
        self.forward = self.plain
        # An adapter without `frozen_blocks` may touch every block.
        frozen: int = getattr(self.adapter, "frozen_blocks", 0)
        suffix: int | None = getattr(self.adapter, "suffix", None)
        if folder and frozen and not shares_keys(self.backbone.model):
            store = ActivationStore(folder, limit, partial(_note_once, self._run_dir))
            self.forward = Forward(self.backbone, FrozenPrefix(self.backbone, identity, frozen, suffix, store))
        self.gradient: Gradient | None = None
        self.answer: Answer | None = None
        self.clock: Callable[[], float] = time.perf_counter
        """Seconds that tasks have taken; with `gradient` and `answer`, replaced while clients run side by side."""
        self.encoder = Encoder(self.task, self.backbone.tokenizer)
        self.stop = stop_tokens(self.backbone.tokenizer)


Answer = Callable[[Session, Adapter | None, Sequence[list[int]], Sequence[int] | None], list[str]]
"""Answers prompts with an adapter, or the bare backbone; as `fl_clients.evaluate.answer_prompts` does."""


def _note_once(run_dir: Path, text: str) -> None:
    """Add a note to the run's events, once for all its processes."""
    marker = run_dir / ".partitions" / "activations-note"
    marker.parent.mkdir(exist_ok=True)
    with contextlib.suppress(FileExistsError), marker.open("x"):
        append_line(run_dir / "events.jsonl", {"event": "note", "text": text})
