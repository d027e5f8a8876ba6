"""The users of a run that has ended or was interrupted, from the data that it was run on."""

from pathlib import Path

from configs.errors import InputError
from fl_clients.lamp.select_users import UserTable, build_table
from fl_server.record.folder import RunFolder


def rebuild_users(files: RunFolder, base: Path = Path()) -> UserTable:
    """Select a run's users again.

    Args:
        files: The run.
        base: The folder that a relative `users.source` is in.

    Raises:
        InputError: The data give other users now than the run had.
    """
    users = build_table(files.config, base)
    if users.sha256 != files.record.users.data_sha256:
        raise InputError(f"{files.path}: the data of {files.config.users.source} have changed since the run began")
    return users
