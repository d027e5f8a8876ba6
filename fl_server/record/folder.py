"""A run record on disk, for everyone who reads one, and the lock that keeps two commands apart."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from configs.errors import InputError
from configs.load import read_resolved
from configs.schema import RunConfig
from fl_server.record.schema import RunRecord, read_run
from fl_server.record.tables import ADDED, TABLES, read_rows


class RunFolder:
    """The files of one run record. Nothing is cached, because the run may be going on."""

    def __init__(self, path: Path | str) -> None:
        """Take the folder; it may not be a record."""
        self.path = Path(path)

    @property
    def is_record(self) -> bool:
        """Whether the folder holds a run record."""
        return (self.path / "run.json").is_file()

    @property
    def record(self) -> RunRecord:
        """What `run.json` says.

        Raises:
            InputError: It is missing or not a run record.
        """
        return read_run(self.path)

    @property
    def config(self) -> RunConfig:
        """The run's config.

        Raises:
            InputError: `config.toml` is missing or does not fit the schema.
        """
        return read_resolved(self.path / "config.toml")

    @property
    def shared(self) -> Path:
        """The tensors that a newcomer downloads; a record may be kept without them."""
        return self.path / "shared.safetensors"

    def ledger(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the ledger: one row per message, direction and tensor group."""
        return self._table("ledger", columns)

    def clients(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Return one row per client and task."""
        return self._table("clients", columns)

    def rounds(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Return one row per round of stage 1."""
        return self._table("rounds", columns)

    def users(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Return which user is which partition."""
        path = self.path / "users.parquet"
        try:
            return pq.read_table(path, columns=columns)
        except (FileNotFoundError, pa.ArrowException) as error:
            raise InputError(f"{path}: not readable: {error}") from None

    @property
    def status(self) -> str:
        """The record's status; `interrupted` if it says running and no command works in it."""
        status = self.record.status
        return "interrupted" if status == "running" and not self.is_locked else status

    @property
    def last_active(self) -> float:
        """When the run last did something, in seconds since 1970, as its record says.

        A file's date would be that of a copy or a checkout.
        """
        ended = None
        if self._has_table("clients"):
            with suppress(InputError):  # commands that need the table report the damage
                ended = pc.max(self.clients(["ended_at"])["ended_at"]).as_py()
        return float(ended) if ended is not None else (self.path / "run.json").stat().st_mtime

    @property
    def is_locked(self) -> bool:
        """Whether a command works in the record now; a killed one does not."""
        path = self._lock_file()
        if not path.is_file():
            return False
        lock = FileLock(path, timeout=0)
        try:
            lock.acquire()
        except (Timeout, PermissionError):  # another owner's
            return True
        lock.release()
        return False

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other commands from working in the record.

        The lock lies beside the folder, because the folder may be replaced.

        Raises:
            InputError: Another command works in it.
        """
        # Looking whether it is locked holds it for an instant.
        lock = FileLock(self._lock_file(), timeout=1)
        try:
            lock.acquire()
        except Timeout:
            raise InputError(f"{self.path}: another command is using it") from None
        try:
            yield
        finally:
            Path(lock.lock_file).unlink(missing_ok=True)
            lock.release()

    def check_tables(self) -> None:
        """Refuse a completed run whose tables are missing or damaged.

        Raises:
            InputError: Names the file.
        """
        for name in (*TABLES, "users"):
            path = self.path / f"{name}.parquet"
            try:
                pq.read_metadata(path)
            except (OSError, pa.ArrowException) as error:
                raise InputError(f"{path}: not readable, so the run cannot be used: {error}") from None

    def _table(self, name: str, columns: Sequence[str] | None) -> pa.Table:
        try:
            table = read_rows(self.path, name)
        except (FileNotFoundError, pa.ArrowException) as error:
            raise InputError(f"{self.path}: its table '{name}' is not readable: {error}") from None
        for field in TABLES[name]:
            if field.name in ADDED and field.name not in table.column_names:
                table = table.append_column(field, pa.nulls(len(table), field.type))
        return table.select(columns) if columns is not None else table

    def _has_table(self, name: str) -> bool:
        return (self.path / f".{name}").is_dir() or (self.path / f"{name}.parquet").is_file()

    def _lock_file(self) -> Path:
        return self.path.parent / f".{self.path.name}.lock"
