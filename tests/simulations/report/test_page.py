"""The report: numbers agree with the records, and it works in a real browser with hostile text."""

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from markupsafe import escape
from rich.table import Table
from typer.testing import CliRunner

from configs.errors import InputError
from fl_server.record.schema import read_run
from simulations.cli.main import app
from simulations.display.style import colour, symbol
from simulations.experiments.cold_start.experiment import cold_start
from simulations.experiments.cold_start.findings import transfer_matrix
from simulations.experiments.cold_start.schema import ColdStart
from simulations.experiments.cold_start.spec import ColdStartSpec
from simulations.experiments.cold_start.tables import cold_start_tables
from simulations.experiments.comparable import Run
from simulations.experiments.compare import complete, write_comparison
from simulations.experiments.comparison.curves import curve
from simulations.experiments.comparison.schema import Comparison
from simulations.experiments.comparison.tables import comparison_tables
from simulations.experiments.plan import plan
from simulations.report import cold_start_figures as figures
from simulations.report.figures import cost_curves
from simulations.report.gather import gather_report
from simulations.report.page import write_page
from simulations.report.series import series
from simulations.report.static_figures import FORMATS
from simulations.report.time_figures import quality_by_seconds
from simulations.run.simulate import simulate
from tests.conftest import TINY, tiny_config

pytestmark = pytest.mark.integration
HOSTILE = [
    "<script>document.title='taken'</script>",
    "</script><script>document.title='taken'</script>",
    "\"'`&amp; <b>bold</b> <img src=x onerror=\"document.title='taken'\">",
    "مرحبا بالعالم",
    "👩‍🚀 emoji \u2028 {{ 7 * 7 }} ${7 * 7}",
]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    folder = tmp_path_factory.mktemp("results")
    runs = complete(
        plan(["perfit", "lora-c", "lora-p"], None, [*TINY, "rounds=4"], [0, 1]), folder / "three", False, print
    )
    write_comparison(runs, "perfit", folder / "three")
    simulate(tiny_config("devices.preset=phones", "users.collective=12", "rounds=4"), "single", folder)
    rows = [json.loads(line) for line in (folder / "single" / "predictions.jsonl").open()]
    for row, text in zip(rows, HOSTILE, strict=False):
        row["prediction"], row["query"] = text, text
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]  # as clients write them
    (folder / "single" / "predictions.jsonl").write_text("\n".join(lines) + "\n")
    words = [word for word in TINY if not word.startswith(("users.collective", "users.target"))]
    spec = ColdStartSpec([2, 4], ["perfit"], ["movie_tagging", "product_rating"], [0], [3], [], 2, True)
    cold_start(spec, None, [*words, "users.target=3"], "cold", folder)
    return folder


def test_page_is_one_file_without_external_resources(results: Path) -> None:
    page = write_page([results / "three"], results / "three.html").read_text()
    assert len(page.encode()) < 8_000_000
    ours = page.replace(page[page.index("<script>/**") : page.index("</script>", page.index("<script>/**"))], "")
    assert not re.findall(r'(?:src|href)="(?!#|data:)[^"]*"', ours)
    assert "http" not in ours.replace("http-equiv", "")


def test_curve_is_the_mean_over_seeds_of_the_records_curves(results: Path) -> None:
    gathered = gather_report([results / "three"])
    figure, choices = cost_curves(gathered.runs)
    lines = [trace for trace in figure.data if trace.mode == "lines+markers"]
    # A method that sends nothing is a horizontal line, since a logarithmic axis has no zero.
    assert [trace.name for trace in lines] == ["perfit", "lora-c"]
    assert [note.text for note in figure.layout.annotations] == ["lora-p (sends no tensors)"]
    frames = [curve(Run.read(results / "three" / f"lora-c-seed{seed}")) for seed in (0, 1)]
    expected = pd.concat(frames).groupby("round")[["bytes_total", "bytes_up_per_client", "value"]].mean()
    assert list(lines[1].y) == expected.value.tolist()
    assert list(lines[1].x) == (expected.bytes_total / 1e6).tolist()
    assert choices["up-client"][2] == (expected.bytes_up_per_client / 1e6).tolist()


def test_points_against_seconds_are_means_over_the_records_target_users(results: Path) -> None:
    gathered = gather_report([results / "three"])
    figure = quality_by_seconds(gathered.runs)
    assert figure is not None
    points = {trace.name: trace for trace in figure.data}
    assert set(points) == {"perfit", "lora-c", "lora-p"}
    for method, point in points.items():
        runs = [run for run in gathered.runs if run.record.method == method]
        clients = pd.concat([run.clients for run in runs])
        assert point.x[0] == pytest.approx(clients[clients.phase == "personalize"].wall_s.mean())
        values = pd.Series([run.record.metrics["accuracy"] for run in runs])
        assert (point.y[0], point.error_y.array[0]) == pytest.approx((values.mean(), values.std()))


def test_method_has_the_same_style_in_every_report(results: Path) -> None:
    methods = ["perfit", "oppu", "fdlora", "lora-c", "lora-p", "fedreft", "reft-c", "fedsa-lora", "ffa-lora", "flora"]
    methods += ["fedex-lora", "part_way"]  # whose hash gives it perfit's colour
    assert colour("part_way") == colour("perfit")
    assert len({(colour(method), symbol(method)) for method in methods}) == len(methods)
    runs = gather_report([results / "three"]).runs
    assert [each.label for each in series(runs)] == ["perfit", "lora-c", "lora-p"]
    # Runs of one method that differ in more than the seed are drawn separately.
    both = gather_report([results / "three" / "perfit-seed0", results / "single"]).runs
    assert [each.label for each in series(both)] == ["perfit-seed0", "single"]


def test_command_writes_into_the_run_folder_and_refuses_other_folders(results: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["report", "single", "--results", str(results)], catch_exceptions=False)
    assert "needs no network" in done.output
    assert (results / "single" / "report.html").is_file()
    (results / "measured").mkdir()
    (results / "measured" / "analysis.json").write_text("{}")
    for words, message in (
        (["measured"], r"measured: analysis\.json is its result, with figures beside it"),
        (["nothing"], "no run record, comparison, cold-start experiment, sweep or audit"),
        (["single", "--out", str(tmp_path)], "cannot be written"),
    ):
        with pytest.raises(InputError, match=message):
            CliRunner().invoke(app, ["report", *words, "--results", str(results)], catch_exceptions=False)


def test_comparison_of_another_schema_is_refused_with_the_command_to_rewrite_it(results: Path, tmp_path: Path) -> None:
    content = json.loads((results / "three" / "compare.json").read_text())
    (tmp_path / "compare.json").write_text(json.dumps(content | {"schema": 1}))
    with pytest.raises(InputError, match=r"schema 1, expected 5; the same `fedperfit compare` rewrites it"):
        gather_report([tmp_path])


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium here (Debian: apt install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def check_tables_are_shown(page: str, tables: list[Table]) -> None:
    for table in tables:
        for column in table.columns:
            for cell in (column.header, *column.cells):
                assert f">{escape(str(cell))}<" in page


def test_comparison_shows_its_tables(results: Path) -> None:
    page = write_page([results / "three"], results / "three.html").read_text()
    check_tables_are_shown(
        page, comparison_tables(Comparison.model_validate_json((results / "three" / "compare.json").read_bytes()))
    )


def test_cold_start_shows_its_tables(results: Path) -> None:
    report = json.loads((results / "cold" / "cold_start.json").read_text())
    page = write_page([results / "cold"], results / "cold.html").read_text()
    (row,) = (each for each in report["numbers"] if (each["task"], each["collective"]) == ("movie_tagging", 2))
    run = read_run(results / "cold" / "movie_tagging-perfit-2-seed0")
    assert row["value"] == pytest.approx(run.metrics["accuracy"])
    assert list(report["transfer"]["methods"]["perfit"]["value"]) == ["movie_tagging", "product_rating"]
    for title in ("Few collective users against many", "What a newcomer costs", "Composition of the collective"):
        assert title in page
    check_tables_are_shown(page, cold_start_tables(ColdStart.model_validate(report)))
    assert "product_rating, mae ↓" in page


def test_cold_start_figures_are_of_one_task_and_follow_from_the_rows(results: Path) -> None:
    rows = pd.read_csv(results / "cold" / "cold_start.csv")
    report = json.loads((results / "cold" / "cold_start.json").read_text())
    task = "product_rating"
    own = [row for row in report["numbers"] if row["task"] == task]
    (by_number,) = figures.quality_by_number(rows, task).data
    assert list(by_number.x) == [2, 4]
    assert list(by_number.y) == pytest.approx([row["value"] for row in own])
    by_bytes = figures.quality_by_bytes(rows, task)
    assert by_bytes is not None
    assert [list(trace.x) for trace in by_bytes.data] == [[row["bytes_total"] / 1e6 for row in own]]
    (newcomer,) = (each for each in report["newcomers"] if (each["task"], each["collective"]) == (task, 4))
    (by_history,) = figures.quality_by_history(rows, task).data
    levels = newcomer["by_history"]
    assert list(by_history.x) == list(levels) == ["0", "3", "all"]
    assert list(by_history.y) == pytest.approx([level["mean"] for level in levels.values()])
    # A method without a stage 2 has only `0` and `all`; drawn first, it does not change the order of the axis.
    first = rows[rows.history.isna()].assign(method="lora-c")
    drawn = figures.quality_by_history(pd.concat([first, rows]), task)
    assert [list(trace.x) for trace in drawn.data] == [["0", "all"], ["0", "3", "all"]]
    assert list(drawn.layout.xaxis.categoryarray) == ["0", "3", "all"]
    assert "lower is better" in figures.quality_by_number(rows, task).layout.yaxis.title.text
    (heat,) = figures.transfer_map(rows, "perfit").data
    matrix = report["transfer"]["methods"]["perfit"]["value"]
    for text, source in zip(heat.text, heat.y, strict=True):
        assert list(text) == [f"{matrix[source][target]:.3f}" for target in heat.x]
    # For an error, the lowest is brightest, and the brightness of the others is its share of their value.
    rows.loc[rows.task != rows.trained_on, "value"] += 10
    (heat,) = figures.transfer_map(rows, "perfit").data
    errors = dict(zip(heat.y, transfer_matrix(rows, "perfit")[task], strict=True))
    shades = dict(zip(heat.y, [shades[list(heat.x).index(task)] for shades in heat.z], strict=True))
    assert shades == pytest.approx({source: errors[task] / error for source, error in errors.items()})
    assert shades["movie_tagging"] < shades[task] == 1
    assert (heat.zmin, heat.zmax) == (0, 1)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cold_start.json", "{}", "schema None, expected 7; the same `fedperfit cold-start` rewrites it"),
        ("cold_start.json", "[]", "not readable"),
        ("cold_start.csv", "", "not readable"),
        ("cold_start.csv", "task,method\n", "column 'trained_on' is missing"),
    ],
)
def test_damaged_cold_start_is_named(name: str, content: str, message: str, results: Path, tmp_path: Path) -> None:
    for file in ("cold_start.json", "cold_start.csv"):
        shutil.copy(results / "cold" / file, tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=f"{name}: {message}"):
        gather_report([tmp_path])


def test_figures_for_papers_need_an_extra(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kaleido", None)
    with pytest.raises(InputError, match=r"pip install 'fedperfit\[figures\]'"):
        write_page([results / "cold"], tmp_path / "page.html", tmp_path / "figures")


@pytest.mark.slow
def test_every_figure_is_written_to_a_file(results: Path, tmp_path: Path) -> None:
    if CHROMIUM is None:
        pytest.skip("no Chromium here (Debian: apt install chromium)")
    write_page([results / "cold"], tmp_path / "page.html", tmp_path / "figures")
    files = sorted(path.name for path in (tmp_path / "figures").iterdir())
    names = {path.rpartition(".")[0] for path in files}
    assert {"cold-movie_tagging-quality-by-number", "cold-transfer-perfit", "movie_tagging-users", "bytes"} <= names
    assert files == sorted(f"{name}.{form}" for name in names for form in FORMATS)
    starts = {"png": b"\x89PNG", "svg": b"<svg", "pdf": b"%PDF"}
    for path in (tmp_path / "figures").iterdir():
        assert path.read_bytes().startswith(starts[path.suffix[1:]])


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_works_in_a_browser(scheme: Any, browser: Any, results: Path) -> None:
    path = write_page([results / name for name in ("three", "single", "cold")], results / "all.html")
    page = browser.new_page(viewport={"width": 390, "height": 800}, color_scheme=scheme)
    messages: list[str] = []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on(
        "request",
        lambda request: messages.append(request.url) if not request.url.startswith(("file:", "data:")) else None,
    )
    page.goto(path.as_uri())
    place = page.locator(".plot[aria-label^='communication cost curves, movie_tagging']")
    place.scroll_into_view_if_needed()
    place.locator(".scatterlayer .trace path.js-line").first.wait_for(state="attached")
    assert page.locator("html").get_attribute("data-theme") == scheme

    number = int(place.get_attribute("data-plot"))
    shown = f"document.querySelector('.plot[data-plot=\"{number}\"]')"
    both = page.evaluate(f"{shown}.data[0].x")
    assert page.evaluate(f"{shown}.layout.xaxis.type") == "log"
    # With the keyboard only.
    page.locator(f"input[name='way-{number}'][value='total']").focus()
    page.keyboard.press("ArrowRight")
    up = page.evaluate(f"{shown}.data[0].x")
    assert page.evaluate(f"{shown}.layout.xaxis.title.text") == "bytes of all clients, up, MB"
    assert all(less < more for less, more in zip(up, both, strict=True))
    page.locator(f"input[name='axis-{number}'][value='linear']").check()
    assert page.evaluate(f"{shown}.layout.xaxis.type") == "linear"

    # Only elements that scroll are wider than a phone screen.
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.locator("#theme").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before

    for text in HOSTILE:
        page.locator("#search").fill(text)
        cells = page.locator("#answers tbody tr td").all_text_contents()
        assert text in cells
    assert "taken" not in page.title()
    page.locator("#search").fill("no such answer anywhere")
    assert page.locator("#found").text_content().startswith("0 of ")
    # Every figure can be drawn.
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.wait_for_function("!document.querySelector('.plot:not([data-drawn=yes])')")
    assert messages == []
    page.close()
