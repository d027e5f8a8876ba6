"""The `fedperfit` command."""

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from configs.errors import InputError, RunFailed
from configs.load import import_folders, load_config
from configs.schema import RunConfig
from fl_clients import backbone as backbones
from simulations.assets import backbone_app, data_app
from simulations.cold_start import Question
from simulations.cold_start import cold_start as run_cold_start
from simulations.cold_start_report import write_report
from simulations.compare import complete, plan, write_comparison
from simulations.comparison import Run
from simulations.params import paper_parity, parameter_table, parity_table
from simulations.prepare import build_method
from simulations.progress import Follower, console
from simulations.report.page import write_page
from simulations.runs import runs_app
from simulations.simulate import claim_folder
from simulations.simulate import resume as resume_simulation
from simulations.simulate import simulate as run_simulation
from simulations.tables import bytes_table, comparison_tables, human_bytes, quality_table
from simulations.tune import tune as run_tune

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    # Click suggests by itself since 8.3; Typer's suggestion would stand beside it.
    suggest_commands=False,
    help="Federated learning of personalised language models: simulate, measure every byte, compare.",
    epilog="Exit status: 0 completed, 1 the run failed, 2 the command, config or data is wrong.",
)
app.add_typer(backbone_app, name="backbone")
app.add_typer(data_app, name="data")
app.add_typer(runs_app, name="runs")

_INTERRUPTED = 130


_Words = Annotated[
    list[str] | None,
    typer.Argument(metavar="[CONFIG.toml] [key=value]…", help="An experiment file, then dotted overrides."),
]
_Seeds = Annotated[str, typer.Option(help="Comma-separated.")]


@app.command()
def simulate(
    words: _Words = None,
    name: Annotated[str | None, typer.Option(help="The run record's name; default: method, task, seed, time.")] = None,
    results: Annotated[Path, typer.Option(help="Where run records go.")] = Path("results"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a record of that name.")] = False,
    resume: Annotated[
        str | None, typer.Option("--resume", metavar="NAME", help="Take up a run that did not complete.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False,
) -> None:
    """Run one simulation and write its run record.

    Example: `fedperfit simulate configs/experiments/demo.toml users.collective=100 seed=1 --name first`
    """
    screen = console()
    if resume is not None:
        if words or name or overwrite:
            raise InputError(f"--resume {resume}: the run goes on with its own config and name; leave the rest out")
        with Follower(screen, quiet) as follower:
            record = resume_simulation(resume, results, follower)
    else:
        config, toml = _read_words(words)
        import_path = import_folders(toml, [word for word in words or [] if "=" in word])
        with Follower(screen, quiet) as follower:
            record = run_simulation(config, name, results, overwrite, import_path, follower)
    folder = results.expanduser().resolve() / record.name
    if not quiet:
        screen.print(quality_table(record), bytes_table(record), sep="\n")
        screen.print(f"run record: {folder} (plots in plots/), {record.wall_s:.0f} s")


@app.command()
def compare(
    words: Annotated[
        list[str],
        typer.Argument(metavar="METHOD… [key=value]…", help="Methods, or folders of run records; dotted overrides."),
    ],
    config: Annotated[Path | None, typer.Option("--config", help="An experiment file for all of them.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Comma-separated; default: 0,1,2.")] = None,
    name: Annotated[str, typer.Option(help="The comparison's folder under --results.")] = "comparison",
    results: Annotated[Path, typer.Option(help="Where the comparison goes, and where run records are reused.")] = Path(
        "results"
    ),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Reuse nothing, run everything anew.")] = False,
) -> None:
    """Compare methods on the same users, seeds and evaluation: quality, bytes, cost curves.

    Runs what is missing, reuses completed runs of the same config, goes on where it was interrupted. All others are
    tested against the first method.

    Example: `fedperfit compare perfit oppu lora-c --seeds 0,1 --name first users.collective=16`
    """
    methods = [word for word in words if "=" not in word]
    overrides = [word for word in words if "=" in word]
    screen = console()
    folder = claim_folder(results, name)
    if any(Path(method).is_dir() for method in methods):
        if config or overrides or seeds:
            raise InputError("run records are compared as they are; leave --config, --seeds and overrides out")
        runs = [Run.read(Path(method)) for method in methods]
        report = write_comparison(runs, runs[0].method, folder)
    else:
        planned = plan(methods, config, overrides, _read_seeds(seeds or "0,1,2"))
        with Follower(screen, False) as follower:
            runs = complete(planned, folder, overwrite, screen.print, follower)
        report = write_comparison(runs, planned[0].method, folder)
    for table in comparison_tables(report):
        screen.print(table)
    screen.print(f"{folder} (compare.json, curves.parquet, curves.png, curves.svg)")


@app.command()
def tune(
    method: Annotated[str, typer.Argument(help="A file in configs/methods/ by name, or module:Class.")],
    words: Annotated[list[str] | None, typer.Argument(metavar="[key=value]…", help="Dotted overrides.")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="The experiment to tune for.")] = None,
    seeds: _Seeds = "0",
    held_out: Annotated[int, typer.Option(help="Collective users to evaluate on instead of the target users.")] = 8,
    name: Annotated[str | None, typer.Option(help="The folder under --results; default: tune-METHOD.")] = None,
    results: Annotated[Path, typer.Option(help="Where it goes.")] = Path("results"),
) -> None:
    """Search a method's learning rates, on held-out collective users; the same small search for every method."""
    screen = console()
    folder = claim_folder(results, name or f"tune-{method.rpartition(':')[2]}")
    tuned = run_tune(method, config, words or [], _read_seeds(seeds), held_out, folder, screen.print)
    table = Table(*tuned.table.columns, title=f"{method}: learning rates tried")
    for row in tuned.table.itertuples(index=False):
        table.add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row))
    screen.print(table)
    for key, rate in tuned.rates.items():
        screen.print(f"{key} = {rate:g}" + (" (at the grid's edge)" if key in tuned.at_the_edge else ""))
    screen.print(f"{folder / 'tune.csv'}")


@app.command("cold-start")
def cold_start(
    words: Annotated[list[str] | None, typer.Argument(metavar="[key=value]…", help="Dotted overrides.")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="An experiment file for all runs.")] = None,
    collective: Annotated[str, typer.Option(help="Numbers of collective users, nested.")] = "10,100",
    methods: Annotated[str, typer.Option(help="All are tested against the first.")] = "perfit,oppu",
    tasks: Annotated[str, typer.Option(help="Default: the config's.")] = "",
    seeds: _Seeds = "0,1,2",
    history: Annotated[str, typer.Option(help="Items newcomers bring, beside none and all.")] = "",
    epochs: Annotated[str, typer.Option(help="Epochs newcomers train, beside the config's.")] = "",
    compositions: Annotated[int, typer.Option(min=0, help="Groups of the smallest number of collective users.")] = 0,
    transfer: Annotated[bool, typer.Option("--transfer", help="Train on each task, use on each other.")] = False,
    name: Annotated[str, typer.Option(help="The folder under --results.")] = "cold-start",
    results: Annotated[Path, typer.Option(help="Where it goes.")] = Path("results"),
) -> None:
    """How many users must take part before a newcomer is served well, and at what cost in bytes?

    Example: `fedperfit cold-start --collective 10,100 --methods perfit,oppu --history 0,5,20,all --compositions 5`
    """
    screen = console()
    folder = claim_folder(results, name)
    question = Question(
        collective=_read_numbers("--collective", collective),
        methods=[word for word in methods.split(",") if word],
        tasks=[word for word in tasks.split(",") if word],
        seeds=_read_seeds(seeds),
        history=_read_numbers("--history", history, or_all=True),
        epochs=_read_numbers("--epochs", epochs),
        compositions=compositions,
        transfer=transfer,
    )
    rows, runs = run_cold_start(question, config, words or [], folder, screen.print)
    for table in write_report(rows, runs, folder):
        screen.print(table)
    screen.print(f"{folder} (cold_start.csv, cold_start.json, plots)")


@app.command()
def report(
    folders: Annotated[list[str], typer.Argument(metavar="RUN…", help="Run records, comparisons, cold starts.")],
    out: Annotated[Path | None, typer.Option(help="The HTML file; default: report.html in the first folder.")] = None,
    results: Annotated[Path, typer.Option(help="Where names are looked for.")] = Path("results"),
) -> None:
    """Write one HTML file that shows run records: quality, cost curves, users, bytes, partitions, predictions.

    Example: `fedperfit report demo` or `fedperfit report results/comparison --out comparison.html`
    """
    paths = [Path(each) if Path(each).is_dir() else results / each for each in folders]
    written = write_page(paths, out or paths[0] / "report.html")
    console().print(f"{written} ({human_bytes(written.stat().st_size)}; opens in any browser, needs no network)")


@app.command()
def params(
    words: _Words = None,
    paper: Annotated[bool, typer.Option("--paper", help="The paper's own tables, on Llama-2-7B.")] = False,
) -> None:
    """Print how many parameters a config trains, sends and keeps; no weights are loaded."""
    if paper:
        if words:
            raise InputError("--paper: computed from the shipped presets alone; leave the config and overrides out")
        console().print(parity_table(paper_parity()))
        return
    config, _ = _read_words(words)
    shape = backbones.read_shape(config.backbone, usable=False)
    console().print(parameter_table(config, build_method(config, shape), shape))


@app.command()
def bench(
    backbone: Annotated[str, typer.Option(help="A backbone the config takes.")] = "smollm2-135m",
    sites: Annotated[str, typer.Option(help="Decoder blocks of the shifts, comma-separated.")] = "14,15",
    repeats: Annotated[int, typer.Option(min=1, help="Repetitions of each step and evaluation.")] = 3,
    users: Annotated[int, typer.Option(min=0, help="Users of the whole simulation, at least 10; 0: none.")] = 100,
    pyreft: Annotated[Path | None, typer.Option(help="A Python with pyreft, to measure its step too.")] = None,
    out: Annotated[Path, typer.Option(help="Where bench.json and bench.png go.")] = Path("results/bench"),
) -> None:
    """Measure local work against a plain baseline, splits of the cores, memory, and a whole simulation."""
    from benchmarks.command import bench as run_bench  # the benchmark runs simulations itself

    try:
        blocks = [int(site) for site in sites.split(",")]
    except ValueError:
        raise InputError(f"--sites {sites}: expected block numbers such as 14,15") from None
    if 0 < users < 10:
        raise InputError(f"--users {users}: expected at least 10, or 0")
    shape = backbones.read_shape(backbone)
    build_method(load_config(None, [f"backbone={backbone}", f"sites={blocks}", "rank.shared=4"]), shape)
    run_bench(backbone, blocks, repeats, users, pyreft, out, console())


def _read_seeds(text: str) -> list[int]:
    try:
        return [int(seed) for seed in text.split(",")]
    except ValueError:
        raise InputError(f"--seeds {text}: expected whole numbers such as 0,1,2") from None


def _read_numbers(option: str, text: str, or_all: bool = False) -> list[int]:
    words = [word for word in text.split(",") if word and not (or_all and word == "all")]
    try:
        return [int(word) for word in words]
    except ValueError:
        raise InputError(f"{option} {text}: expected whole numbers such as 10,100") from None


def _read_words(words: list[str] | None) -> tuple[RunConfig, Path | None]:
    files = [word for word in words or [] if "=" not in word]
    if len(files) > 1:
        raise InputError(f"one config file at most; got {' and '.join(files)}")
    toml = Path(files[0]) if files else None
    return load_config(toml, [word for word in words or [] if "=" in word]), toml


def main() -> None:
    """Run the command; every error a person can cause ends as one sentence."""
    signal.signal(signal.SIGTERM, _interrupt)
    # A shell starts background jobs with SIGINT ignored; a simulation must still end when asked.
    signal.signal(signal.SIGINT, _interrupt)
    try:
        # Typer turns an interrupt, and `--help`, into the exit status it returns here.
        status = app(standalone_mode=False)
        if status == _INTERRUPTED:
            _fail("cancelled", 1)
        sys.exit(status or 0)
    except InputError as error:
        _fail(str(error), 2)
    except RunFailed as error:
        _fail(str(error), 1)
    except Exception as error:
        # click's usage errors have a message and an exit code of their own.
        if hasattr(error, "format_message"):
            # Without any word after it, a command prints its help and has no more to say.
            if type(error).__name__ == "NoArgsIsHelpError":
                sys.exit(2)
            _fail(error.format_message(), 2)
        raise


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _fail(message: str, status: int) -> None:
    print(f"fedperfit: {message}", file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    main()
