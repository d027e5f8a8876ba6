"""`fedperfit deploy`: writes the files of a real federation."""

from pathlib import Path
from typing import Annotated

import typer

from simulations.cli.options import ConfigArguments, read_arguments
from simulations.display.console import console


def deploy(
    folder: Annotated[Path, typer.Argument(help="The folder to write; new or empty.")],
    arguments: ConfigArguments = None,
    host: Annotated[str, typer.Option(help="Name or address at which devices reach the server.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The server's port.")] = 9092,
    bind: Annotated[
        str | None, typer.Option(help="Address of its own machine on which the server listens; default: --host.")
    ] = None,
) -> None:
    """Write everything a real federation needs to start: certificates, keys, each user's data, and start scripts.

    Example: `fedperfit deploy federation configs/experiments/demo.toml users.collective=3 users.target=1 cohort=2`
    """
    from simulations.federation.deploy import DAYS, is_loopback
    from simulations.federation.deploy import deploy as write_deployment

    config, _ = read_arguments(arguments)
    written = write_deployment(config, folder, host, port, bind)
    users = config.users.collective + config.users.target
    lines = [
        f"{written / 'server'}: start.sh starts the server, run.sh submits the run; certificates last {DAYS} days",
        f"{written / 'nodes'}/0 to {users - 1}: one folder per device; start.sh connects it to the server",
    ]
    if not is_loopback(bind or host):
        lines.append(
            f"warning: the server listens on {bind or host}, where everybody who reaches port {port} can register a "
            "device and submit code; use compose.yaml or proxy.conf (docs/deployment.md)"
        )
    for line in lines:
        console().print(line, soft_wrap=True)
