"""Writes the users of a run as a user table (format in fl_clients/lamp/user_table.py), without what reveals answers."""

import hashlib
import json
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pyarrow as pa

from configs.errors import InputError
from configs.paths import cache_dir, expand, make_cache
from configs.schema import RunConfig
from configs.users import UsersConfig
from fl_clients.lamp.canaries import repeats_of, with_canary
from fl_clients.lamp.notes import DataNotes
from fl_clients.lamp.readers import Source, find_source
from fl_clients.lamp.roles import choose
from fl_clients.lamp.synthetic.generate import GENERATOR_VERSION, write_synthetic
from fl_clients.lamp.tasks import Task, find_task
from fl_clients.lamp.user import Pair, User, revealing_keys
from fl_clients.lamp.user_table import ROWS, IndexRow, batch_of, write_index


@dataclass(frozen=True)
class Oracle:
    """The best reachable scores on the target users, in one metric."""

    metric: str
    personalised: float
    """User known."""
    collective: float
    """User unknown."""


@dataclass(frozen=True)
class UserTable:
    """A table built by `build_table`."""

    folder: Path
    sha256: str
    source: Literal["synthetic", "lamp", "oppu"]
    oracle: Oracle | None
    """None if the source has no oracle."""
    questions: int
    """Of the target users."""
    empty_histories: int
    leaks: int
    """Examples left out because they reveal a question's answer: history items of the question's user, and examples of
    collective users that hold a target user's question or gold."""
    skipped: int
    joined: int
    """Questions that are their users' because of the profiles (see `find_people`)."""
    notes: tuple[str, ...]
    """Sentences about what was left out, joined or could not be read."""


def build_table(config: RunConfig, within: Path = Path()) -> UserTable:
    """Select the run's users and write them to a cache folder named after their content.

    Args:
        config: The run's config.
        within: Base folder of a relative `users.source`.

    Raises:
        InputError: The source is unreadable or malformed, or has too few users.
    """
    task = find_task(config.task)
    synthetic = config.users.source == "synthetic"
    folder = synthetic_users(config) if synthetic else (within / expand(config.users.source)).resolve()
    source = find_source(folder, task)
    roles = choose(source, config)
    root = make_cache("users")
    with tempfile.TemporaryDirectory(dir=root) as scratch:
        index, notes = _write(source, roles, config, Path(scratch))
        digests = []
        for name in ("users.arrow", "users.parquet"):
            with (Path(scratch) / name).open("rb") as file:
                digests.append(hashlib.file_digest(file, "sha256").hexdigest())
        sha256 = hashlib.sha256("".join(digests).encode()).hexdigest()
        home = table_folder(sha256)
        _publish(Path(scratch), home)
    return UserTable(
        folder=home,
        sha256=sha256,
        source="synthetic" if synthetic else source.layout,
        oracle=_oracle(source.path, index["user_id"].to_pylist()[config.users.collective :]),
        questions=sum(index["queries"].to_pylist()[config.users.collective :]),
        empty_histories=sum(count == 0 for count in index["history"].to_pylist()),
        leaks=sum(index["leaks"].to_pylist()),
        skipped=sum(index["skipped"].to_pylist()),
        joined=notes.joined,
        notes=notes.sentences(config.evaluate.words),
    )


def table_folder(sha256: str) -> Path:
    """Return the cache folder of the table with this digest, which may be missing."""
    return cache_dir() / "users" / sha256[:32]


def differing_questions(config: RunConfig) -> set[str]:
    """Return the ids of synthetic questions whose best answer is another with the user known than unknown."""
    content = json.loads((synthetic_users(config) / "oracle.json").read_text(encoding="utf-8"))
    return {question for user in content["users"].values() for question in user["differing"]}


def synthetic_users(config: RunConfig) -> Path:
    """Return the cache folder of a config's synthetic users, in the official layout; they are made if missing."""
    task, users = find_task(config.task), config.users
    count = users.reserved + users.collective * (users.group + 1) + users.target
    # Whole clusters are left out.
    count *= 2 if users.select == "apart" else 1
    key = json.dumps([GENERATOR_VERSION, task.name, count, config.seed, users.synthetic.model_dump()])
    folder = cache_dir() / "synthetic" / hashlib.sha256(key.encode()).hexdigest()[:32]
    if not folder.is_dir():
        with tempfile.TemporaryDirectory(dir=make_cache("synthetic")) as scratch:
            write_synthetic(task, count, config.seed, users.synthetic, Path(scratch))
            _publish(Path(scratch), folder)
    return folder


def _publish(made: Path, home: Path) -> None:
    """Move a finished folder into place, unless another run has already put the same folder there."""
    if not home.is_dir():
        copy = made.with_name(f"{made.name}.publish")
        shutil.copytree(made, copy)
        try:
            copy.rename(home)
        except OSError:
            shutil.rmtree(copy)
            if not home.is_dir():
                raise


def _write(source: Source, roles: dict[str, list[int]], config: RunConfig, folder: Path) -> tuple[pa.Table, DataNotes]:
    """Write the selected users; return their index and what was found in their data."""
    rows: list[IndexRow] = []
    users, notes = config.users, DataNotes()
    # Synthetic texts are drawn from so few phrases that two users may have the same one by chance.
    real = {} if users.source == "synthetic" else roles
    asked = _asked(source, {name for name, places in real.items() if max(places) >= users.collective})
    exchanged = _next_histories(source, roles, users) if users.exchange_histories else {}
    with pa.OSFile(str(folder / "users.arrow"), "wb") as sink, pa.ipc.new_file(sink, ROWS) as writer:
        for user in source.users():
            if user.user_id in roles:
                target = max(roles[user.user_id]) >= users.collective
                notes.add(user, source.task, target, config.evaluate.words)
            for partition in roles.get(user.user_id, []):
                # A target's questions are never trained on, even if it is also a collective user.
                both = len(roles[user.user_id]) > 1 and partition < users.collective
                selected = replace(user, queries=[]) if both else user
                if partition in exchanged:
                    selected = _with_history(user, exchanged[partition], source.task)
                if partition < users.collective and asked:
                    selected, shared = _without(selected, asked, source.task)
                    notes.shared += shared
                selected = _as_trained(selected, partition, source.task, config)
                writer.write_batch(batch_of(selected))
                sizes = (len(selected.history), len(selected.queries), selected.leaks, selected.skipped)
                rows.append(IndexRow(partition, selected.user_id, len(rows), *sizes))
    if len(rows) != sum(map(len, roles.values())):
        raise InputError(f"{source.path}: changed while it was read")
    rows.sort()
    _check_sizes(rows, config, source.path)
    return write_index(rows, folder), notes


def _as_trained(user: User, partition: int, task: Task, config: RunConfig) -> User:
    """Return the user with as long a history as its role has, and its canary if there are any."""
    users, collective = config.users, partition < config.users.collective
    limit = users.collective_history if collective else users.target_history
    cut = replace(user, history=user.history[:limit])
    return with_canary(cut, partition, task, planted, config.seed) if (planted := _planted(partition, config)) else cut


def _planted(partition: int, config: RunConfig) -> int:
    return repeats_of(partition, partition < config.users.collective, config.seed) if config.users.canaries else 0


def _check_sizes(rows: list[IndexRow], config: RunConfig, path: Path) -> None:
    """Refuse users with too few examples.

    Raises:
        InputError: Too few users have examples for a cohort, or no history is as long as the config says.
    """
    users = config.users
    sizes = [(row.history - _planted(row.partition, config), row.queries) for row in rows]
    able = sum(history + queries > 0 for history, queries in sizes[: users.collective])
    if able < config.cohort:
        raise InputError(
            f"cohort={config.cohort}: only {able} collective users of {path} have an example left that holds no "
            "target's question or gold"
        )
    for role, limit, of_role in (
        ("collective", users.collective_history, sizes[: users.collective]),
        ("target", users.target_history, sizes[users.collective :]),
    ):
        longest = max(history for history, _ in of_role)
        if limit is not None and longest < limit:
            raise InputError(f"users.{role}_history={limit}: no {role} user has more than {longest} items")


def _next_histories(source: Source, roles: dict[str, list[int]], users: UsersConfig) -> dict[int, list[Pair]]:
    """Return for every target user's partition the history of the next target user; the last one's is the first's."""
    histories = {
        max(roles[user.user_id]): user.history
        for user in source.users()
        if max(roles.get(user.user_id, [-1])) >= users.collective
    }
    partitions = sorted(histories)
    return {one: histories[other] for one, other in zip(partitions, partitions[1:] + partitions[:1], strict=True)}


def _with_history(user: User, history: list[Pair], task: Task) -> User:
    """Give a user another one's history, without the items that reveal the user's golds."""
    golds = {key for query in user.queries for key in revealing_keys(query, task)}
    kept = [pair for pair in history if not golds & revealing_keys(pair, task)]
    return replace(user, history=kept, leaks=len(history) - len(kept))


def _asked(source: Source, targets: set[str]) -> set[bytes]:
    """Return the keys of all target users' questions and, if answers are texts, of their golds."""
    asked: set[bytes] = set()
    for user in source.users() if targets else ():
        for query in user.queries if user.user_id in targets else []:
            asked |= revealing_keys(query, source.task)
    return asked


def _without(user: User, asked: set[bytes], task: Task) -> tuple[User, int]:
    """Leave out a collective user's examples that hold a target user's question or gold, and count them."""
    history, queries = (
        [pair for pair in pairs if not asked & revealing_keys(pair, task)] for pairs in (user.history, user.queries)
    )
    count = len(user.history) + len(user.queries) - len(history) - len(queries)
    return replace(user, history=history, queries=queries, leaks=user.leaks + count), count


def _oracle(source: Path, targets: list[str]) -> Oracle | None:
    path = (source if source.is_dir() else source.parent) / "oracle.json"
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        scores = content["users"]
        count = sum(scores[user]["count"] for user in targets)
        means = {key: sum(scores[user][key] for user in targets) / count for key in ("personalised", "collective")}
        return Oracle(str(content["metric"]), **means)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not the oracle of these users ({type(error).__name__}: {error})") from None
