"""The `fedperfit` command."""

import signal
import sys

import typer

from configs.errors import InputError, RunFailed
from simulations.commands import experiments, figures, models, scale
from simulations.commands.assets import backbone_app, data_app
from simulations.commands.runs import runs_app
from simulations.commands.simulate import simulate

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
app.command()(simulate)
app.command()(experiments.compare)
app.command()(experiments.tune)
app.command("cold-start")(experiments.cold_start)
app.add_typer(runs_app, name="runs")
app.command()(figures.report)
app.command()(models.export)
app.command()(models.chat)
app.command()(figures.params)
app.command()(figures.bench)
app.command()(scale.deploy)
app.command()(scale.project)
app.add_typer(data_app, name="data")
app.add_typer(backbone_app, name="backbone")

_INTERRUPTED = 130


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
