"""How far a run is: the server's tensors, what belongs to them, and the checkpoint of both."""

from functools import partial
from pathlib import Path

from safetensors.torch import save_file

from configs.files import write_atomic
from configs.schema import RunConfig
from fl_server.best_round import BestRound
from fl_server.coding import ServerCoding
from fl_server.privacy import RunPrivacy
from fl_server.record.checkpoint import Checkpoint
from fl_server.record.writer import RecordWriter
from fl_server.server_step import ServerStep
from strategies.method import Method, Tensors


class Progress:
    """Continues from a record's checkpoint, and commits what is done since."""

    def __init__(self, folder: Path, config: RunConfig, method: Method) -> None:
        """Read the checkpoint.

        Args:
            folder: The run record.
            config: Its config.
            method: Its method.
        """
        self._folder, self._method = folder, method
        self.writer = RecordWriter(folder)
        kept = self.writer.state
        self.state: Tensors = {name: value for name, value in kept.items() if name.startswith(("shared_", "server_"))}
        """The server's tensors."""
        self.coding = ServerCoding(config, method, kept)
        self.server_step = ServerStep(config.server, method, kept)
        self.best = BestRound(kept)
        self.privacy: RunPrivacy | None = None
        """Set before stage 1, if it is private."""
        own_last = method.last_round
        self.last_round = config.rounds if own_last is None else own_last
        """Of stage 1; a privacy budget may end it earlier."""

    @property
    def checkpoint(self) -> Checkpoint:
        """What has been committed."""
        return self.writer.checkpoint

    def end_stage_1(self, number: int) -> None:
        """End stage 1 after a round, if it would go on, since the next one would exceed the target ε."""
        if number < self.last_round:
            self.last_round = number
            text = f"stage 1 ends after round {number}, to keep to privacy.target_epsilon"
            self.writer.event("note", text=text)

    def save_shared(self, version: int) -> None:
        """Write what newcomers are sent, and what a later run starts from, to `shared.safetensors`.

        Args:
            version: The round in which it would be sent.
        """
        self.coding.advance(version, self.state)
        tensors = self.coding.newcomers_tensors(self.state) | self._method.server_keeps(self.state)
        write_atomic(self._folder / "shared.safetensors", partial(save_file, tensors))

    def commit(self, **done: object) -> None:
        """Make the state final, with everything that a resumed run needs to continue from it.

        Args:
            done: Changed fields of the checkpoint.
        """
        kept = self.coding.saved() | self.server_step.saved() | self.best.saved()
        kept |= self.privacy.saved() if self.privacy else {}
        self.writer.commit(self.state | kept, **done)
