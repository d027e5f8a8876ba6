"""The ledger: one row per message, direction and tensor group; the only source of byte counts."""

from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fl_server.record.reply import MessageSize
from fl_server.record.schema import BytesPart
from fl_server.record.tables import LEDGER, TableWriter
from strategies.wire import SHARED, TRAINING, Phase

Direction = Literal["up", "down"]


class Ledger:
    """Writes `ledger.parquet` as messages are exchanged."""

    def __init__(self, folder: Path, keep: int = 0) -> None:
        """Open the ledger of a run record; `keep` as in `TableWriter`."""
        self.table = TableWriter(folder, "ledger", LEDGER, keep)
        self.so_far: dict[Direction, int] = {"up": 0, "down": 0}
        """Bytes of all recorded messages, including those before a resume."""
        for part in self.table.parts():
            rows = pq.read_table(part, columns=["direction", "message_bytes"])
            for direction in self.so_far:
                self.so_far[direction] += _add(rows, "message_bytes", direction)

    def record(self, round_number: int, phase: Phase, direction: Direction, user: int, message: MessageSize) -> None:
        """Record one message.

        Args:
            round_number: 0 before stage 1.
            phase: The phase that the message belongs to.
            direction: `up` is from the client to the server.
            user: Partition id.
            message: The message's sizes. The last dotted part of a tensor's name is its group. The size of the whole
                message is only in the first of its rows, so that the column sums to the bytes exchanged.
        """
        groups: dict[tuple[str, str, str], list[int]] = {}
        for name, elements, payload, dtype, codec in message.arrays:
            sums = groups.setdefault((name.rpartition(".")[2], dtype, codec), [0, 0])
            sums[0] += elements
            sums[1] += payload
        rows = groups or {("", "", "raw"): [0, 0]}
        for number, ((group, dtype, codec), (elements, payload)) in enumerate(rows.items()):
            self.table.add(
                round=round_number,
                phase=str(phase),
                direction=direction,
                user=user,
                record=SHARED if groups else "",
                group=group,
                elements=elements,
                payload_bytes=payload,
                message_bytes=0 if number else message.size,
                codec=codec,
                dtype=dtype,
            )
        self.so_far[direction] += message.size


def total_bytes(folder: Path) -> BytesPart:
    """Sum a gathered ledger.

    Up, down and total include every message of the run. The values per client and round are those of all messages of
    stage 1 without its opening, over the number of updates; the ratios over all arrays that a codec wrote, without
    updates that were rejected: what their headers say may be wrong.
    """
    table = pq.read_table(folder / "ledger.parquet")
    coded = _without_rejected(table.filter(pc.not_equal(table["codec"], "raw")), folder)
    training = pa.array([str(phase) for phase in TRAINING])
    training_messages = table.filter(pc.is_in(table["phase"], training))
    rounds = training_messages.filter(pc.greater(training_messages["round"], 0))

    def mean(direction: Direction) -> float:
        chosen = rounds.filter(
            pc.and_(pc.equal(rounds["direction"], direction), pc.greater(rounds["message_bytes"], 0))
        )
        updates = pc.sum(pc.equal(chosen["phase"], str(Phase.TRAIN))).as_py()
        return _add(chosen, "message_bytes", direction) / updates if updates else 0.0

    def ratio(direction: Direction) -> float:
        payload = _add(coded, "payload_bytes", direction)
        return 4 * _add(coded, "elements", direction) / payload if payload else 1.0

    def codec(direction: Direction) -> str:
        # Copies have a codec of their own.
        changes = coded.filter(pc.and_(pc.equal(coded["direction"], direction), pc.not_equal(coded["group"], "copy")))
        names = changes["codec"].unique().to_pylist()
        return str(names[0]) if names else "raw"

    up, down = _add(table, "message_bytes", "up"), _add(table, "message_bytes", "down")
    return BytesPart(
        up=up,
        down=down,
        total=up + down,
        payload_up=_add(table, "payload_bytes", "up"),
        payload_down=_add(table, "payload_bytes", "down"),
        payload_training=sum(_add(training_messages, "payload_bytes", direction) for direction in ("up", "down")),
        per_client_round_up=mean("up"),
        per_client_round_down=mean("down"),
        ratio_up=ratio("up"),
        ratio_down=ratio("down"),
        codec_up=codec("up"),
        codec_down=codec("down"),
    )


def _without_rejected(table: pa.Table, folder: Path) -> pa.Table:
    """Leave out the rows of updates that were rejected."""
    if not len(table):
        return table
    keys = ["round", "phase", "user"]
    clients = pq.read_table(folder / "clients.parquet", columns=[*keys, "status"])
    rejected = clients.filter(pc.starts_with(clients["status"], "rejected")).select(keys)
    return table.join(rejected, keys, join_type="left anti")


def _add(table: pa.Table, column: str, direction: Direction) -> int:
    return int(pc.sum(table.filter(pc.equal(table["direction"], direction))[column]).as_py() or 0)


def count_faults(folder: Path) -> dict[str, int]:
    """Count a gathered record's faults.

    Returns:
        `retries` of tasks, without the roll call; `left_out`, the updates left out; `over_memory`, the tasks that used
        more memory than their device has.
    """
    clients = pq.read_table(folder / "clients.parquet", columns=["retries", "over_memory"])
    rounds = pq.read_table(folder / "rounds.parquet", columns=["failures", "rejected"])
    left_out = sum(int(pc.sum(rounds[key]).as_py() or 0) for key in ("failures", "rejected"))
    retries, over_memory = (int(pc.sum(clients[key]).as_py() or 0) for key in ("retries", "over_memory"))
    return {"retries": retries, "left_out": left_out, "over_memory": over_memory}


def simulated_seconds(folder: Path) -> float | None:
    """Return stage 1's time on the virtual clock; None without simulated devices."""
    seconds = pc.sum(pq.read_table(folder / "rounds.parquet", columns=["simulated_s"])["simulated_s"]).as_py()
    return None if seconds is None else float(seconds)
