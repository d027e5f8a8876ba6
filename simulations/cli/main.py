"""The `fedperfit` command."""

import signal
import sys
from typing import NoReturn

import typer

from configs.errors import InputError, RunFailed
from configs.explain import known_keys
from configs.schema import RunConfig
from simulations.cli.ability import ability
from simulations.cli.analyze import analyze
from simulations.cli.audit import audit
from simulations.cli.backbone import backbone_app
from simulations.cli.bench import bench
from simulations.cli.data import data_app
from simulations.cli.deploy import deploy
from simulations.cli.experiments import cold_start, compare, tune
from simulations.cli.export import chat, export
from simulations.cli.params import params
from simulations.cli.project import project
from simulations.cli.report import report
from simulations.cli.runs import runs_app
from simulations.cli.simulate import simulate
from simulations.cli.sweep import sweep
from simulations.display.output import forgiving_output, printable

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    # Click makes suggestions since 8.3; Typer's would be a second one.
    suggest_commands=False,
    help="Federated learning of personalised language models: simulate, measure every byte, compare.\n\n"
    "Example: `fedperfit simulate configs/experiments/tiny.toml`",
    epilog="Exit status: 0 completed, 1 the run failed, 2 the command, config or data is wrong.",
)
app.command()(simulate)
app.command()(compare)
app.command()(tune)
app.command("cold-start")(cold_start)
app.command()(sweep)
app.command()(analyze)
app.command()(audit)
app.command()(ability)
app.add_typer(runs_app, name="runs")
app.command()(report)
app.command()(export)
app.command()(chat)
app.command()(params)
# The options are those of `python -m benchmarks`, `--help` included.
app.command(add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(bench)
app.command()(deploy)
app.command()(project)
app.add_typer(data_app, name="data")
app.add_typer(backbone_app, name="backbone")

_INTERRUPTED = 130


def main() -> NoReturn:
    """Run the `fedperfit` command."""
    run_app(app)


def run_app(app: typer.Typer) -> NoReturn:
    """Run a command line; every error a user can cause becomes one sentence and an exit status."""
    signal.signal(signal.SIGTERM, _interrupt)
    # A shell starts background jobs with SIGINT ignored; a simulation must still end on it.
    signal.signal(signal.SIGINT, _interrupt)
    # A terminal that closes ends the run in order, unless it was started with nohup.
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, _interrupt)
    with forgiving_output():
        if odd := next((word for word in sys.argv[1:] if not _is_text(word)), None):
            _fail(f"{odd!r}: expected text in UTF-8", 2)
        _run(app)


def _is_text(word: str) -> bool:
    try:
        word.encode()
    except UnicodeEncodeError:
        return False
    return True


def _run(app: typer.Typer) -> NoReturn:
    try:
        # For an interrupt or `--help`, Typer returns the exit status.
        status = app(standalone_mode=False)
        if status == _INTERRUPTED:
            _fail("cancelled", 1)
        sys.exit(status or 0)
    except InputError as error:
        _fail(error.as_option(), 2)
    except RunFailed as error:
        _fail(str(error), 1)
    except OSError as error:
        # A full disk, a folder that may not be read: they can come from any file.
        if error.errno is None or error.strerror is None:
            raise
        _fail(f"{error.filename}: {error.strerror}" if error.filename else error.strerror, 2)
    except Exception as error:
        # Click's usage errors have their own message.
        if hasattr(error, "format_message"):
            # Without arguments a command prints only its help.
            if type(error).__name__ == "NoArgsIsHelpError":
                sys.exit(2)
            _fail(error.format_message() + _key_hint(getattr(error, "option_name", "")), 2)
        raise


def _key_hint(option: str) -> str:
    """Return what to type if an unknown option is a config key."""
    key = option.lstrip("-").replace("-", "_")
    return f" A config key has no dashes: {key}=…" if option and key in known_keys(RunConfig) else ""


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _fail(message: str, status: int) -> NoReturn:
    print(f"fedperfit: {printable(message)}", file=sys.stderr)
    sys.exit(status)
