"""Commands that look at a run's users again refuse others in their place."""

from pathlib import Path

import pytest

from configs.errors import InputError
from fl_server.record.folder import RunFolder
from fl_server.record.schema import read_run, write_run
from simulations.run.rebuild_users import rebuild_users
from simulations.run.simulate import simulate
from tests.conftest import tiny_config

pytestmark = pytest.mark.integration


def test_the_users_are_the_runs_own(tmp_path: Path) -> None:
    record = simulate(tiny_config("rounds=1"), "run", tmp_path)
    assert rebuild_users(RunFolder(tmp_path / "run")).sha256 == record.users.data_sha256
    changed = read_run(tmp_path / "run")
    changed.users.data_sha256 = "0" * 64  # as if the data had changed since
    write_run(tmp_path / "run", changed)
    with pytest.raises(InputError, match=r"the data of synthetic have changed since the run began"):
        rebuild_users(RunFolder(tmp_path / "run"))
