"""Audits of whole runs: a planted leak is found, and nothing is found where nothing was learned."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from configs.errors import InputError
from fl_server.record.folder import RunFolder
from simulations.cli.main import app
from simulations.experiments.audit.run import audit
from simulations.run.simulate import simulate
from tests.conftest import tiny_config

pytestmark = pytest.mark.integration
USERS = ("users.collective=10", "users.target=8", "cohort=10", "rounds=1", "users.synthetic.queries=12")
LORA = ("method=oppu", "settings.rank=8", "settings.alpha=32", "settings.dropout=0")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    folder = tmp_path_factory.mktemp("results")
    leak = ("personal.epochs=40", "personal.lr=0.02", "local.epochs=5", "local.lr=0.02")
    simulate(tiny_config(*USERS, *LORA, *leak), "leaks", folder)
    simulate(tiny_config(*USERS, *LORA, "personal.lr=1e-9", "local.lr=1e-9"), "learned-nothing", folder)
    return folder


def test_a_model_that_knows_its_items_by_heart_is_found(results: Path) -> None:
    found = audit(results / "leaks", "a", results)
    assert found.served_items is not None
    assert found.served_items.auc > 0.75
    assert found.served_items.interval[0] > 0.6
    assert found.served_items.members == 8 * 8
    assert found.served_items.non_members == 8 * 12


def test_nothing_is_found_in_a_run_that_learned_nothing(results: Path) -> None:
    found = audit(results / "learned-nothing", "b", results)
    assert found.served_items is not None
    low, high = found.served_items.interval
    assert low < 0.5 < high
    low, high = found.shared_users.interval
    assert low < 0.5 < high
    assert found.epsilon_suggested == 0.0
    assert found.epsilon_at_most is None


def test_a_users_updates_are_linked_and_noise_hides_them(results: Path) -> None:
    found = audit(results / "leaks", "c", results)
    assert found.linked is not None
    assert found.taste is not None
    assert found.taste.users == 10
    assert found.linked.accuracy > 0.5 > found.linked.by_chance
    noise = ("privacy.kind=local", "privacy.noise_multiplier=10")
    spent = simulate(tiny_config(*USERS, *LORA, *noise), "noisy", results).privacy
    hidden = audit(results / "noisy", "d", results)
    assert hidden.linked is not None
    assert hidden.linked.accuracy < 0.5
    assert spent is not None
    assert hidden.epsilon_at_most == spent.epsilon


@pytest.mark.parametrize("method", ["flora", "chameleon", "stylevector"])
def test_nothing_is_read_from_updates_that_cannot_be_compared(method: str, results: Path) -> None:
    words = ("settings.federated=true",) if method == "stylevector" else ()
    simulate(tiny_config(*USERS, f"method={method}", *words), method, results)
    found = audit(results / method, f"audit-{method}", results)
    assert (found.linked, found.taste, found.usual_answer) == (None, None, None)


def test_masked_updates_say_nothing(results: Path) -> None:
    simulate(tiny_config(*USERS, *LORA, "secure.aggregation=true"), "masked", results)
    found = audit(results / "masked", "e", results)
    assert (found.linked, found.usual_answer, found.taste) == (None, None, None)


def test_canaries_are_remembered_by_models_that_trained_on_them_often(results: Path) -> None:
    leak = ("personal.epochs=30", "personal.lr=0.02", "local.lr=1e-9", "users.canaries=true", "users.target=3")
    simulate(tiny_config(*USERS, *LORA, *leak), "planted", results)
    found = audit(results / "planted", "i", results)
    assert [row.repeats for row in found.exposures] == [0, 1, 4, 16]
    assert [row.served.users if row.served else 0 for row in found.exposures] == [0, 1, 1, 1]
    assert sum(row.shared.users for row in found.exposures if row.shared) == 10
    # Stage 2 knows them by heart; stage 1 learned nothing.
    often = found.exposures[-1].served
    assert often is not None
    assert often.mean > 6.0
    assert found.epsilon_at_least == 0.0
    plain = audit(results / "learned-nothing", "j", results)
    assert (plain.exposures, plain.epsilon_at_least) == ([], None)
    assert found.linked is None  # an update would hold a text that only its sender has
    with pytest.raises(InputError, match="shadow runs have no canaries"):
        audit(results / "planted", "k", results, shadows=4)
    # The other attacks are about the users' own items.
    assert found.served_items is not None
    assert found.served_items.members == 3 * 8


def test_shadow_runs_are_kept_and_used_again(results: Path) -> None:
    found = audit(results / "learned-nothing", "f", results, shadows=4)
    assert found.shadow_runs == 4
    shadows = [results / "f" / f"shadow-{number}" / "run.json" for number in range(4)]
    assert len({RunFolder(path.parent).config.seed for path in shadows}) == 4
    written = [path.stat().st_mtime_ns for path in shadows]
    users = [set(RunFolder(path.parent).config.users.collective_ids) for path in shadows]
    assert {len(ids) for ids in users} == {5}
    again = audit(results / "learned-nothing", "f", results, shadows=4)
    assert [path.stat().st_mtime_ns for path in shadows] == written
    assert again == found
    if found.shadows:  # some user may never have been in, or never out
        assert 0 <= found.shadows.auc <= 1


def test_the_command_shows_tables_of_80_columns_and_writes_its_figures(results: Path) -> None:
    words = ["audit", "leaks", "--results", str(results), "--name", "g"]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0
    assert "was it trained on?" in done.output
    assert max(len(line) for line in done.output.splitlines() if "│" not in line and str(results) not in line) <= 80
    written = json.loads((results / "g" / "audit.json").read_text())
    shown = json.loads(CliRunner().invoke(app, [*words, "--json"], catch_exceptions=False).stdout)
    assert shown == written


def test_what_cannot_be_audited_is_named(results: Path) -> None:
    simulate(tiny_config(*USERS, *LORA, f"start_from={results / 'leaks'}", "users.overlap=true"), "later", results)
    simulate(tiny_config(*USERS, "method=rag"), "rag", results)
    for name in ("later", "rag"):
        with pytest.raises(InputError, match=f"{name}: expected a run with a stage 1 of its own"):
            audit(results / name, "h", results)
    with pytest.raises(InputError, match="expected none or at least 4"):
        audit(results / "leaks", "h", results, shadows=2)
    assert not (results / "h").exists()
    simulate(tiny_config(*LORA, "users.collective=1", "cohort=1"), "one", results)
    with pytest.raises(InputError, match="one: 1 user trained in it; a shadow run trains half of them, expected 2"):
        audit(results / "one", "i", results, shadows=4)
    for words in (
        ("method=reft-p",),
        ("method=rag",),
        (f"start_from={results / 'leaks'}", "users.overlap=true", *LORA),
    ):
        with pytest.raises(InputError, match=r"users\.canaries: `fedperfit audit` needs a run with a stage 1"):
            simulate(tiny_config(*USERS, *words, "users.canaries=true"), "refused", results)
