"""`fedperfit params`: how many parameters a config trains, sends and keeps."""

from typing import Annotated

import typer

from configs.errors import InputError
from configs.load import import_folders
from simulations.cli.options import ConfigArguments, Json, overrides_of, read_arguments, show


def params(
    arguments: ConfigArguments = None,
    paper: Annotated[bool, typer.Option("--paper", help="The paper's tables, for Llama-2-7B.")] = False,
    as_json: Json = False,
) -> None:
    """Print how many parameters a config trains, sends and keeps; no weights are loaded.

    Example: `fedperfit params configs/experiments/demo.toml method=oppu`
    """
    from fl_clients.backbone import load as backbones
    from simulations.inspection.parameters import (
        paper_parity,
        parameter_rows,
        parameter_table,
        parity_content,
        parity_table,
    )
    from simulations.run.preflight import build_method

    if paper:
        if arguments:
            raise InputError(
                "computed from the shipped presets only; leave out the config and overrides", field="paper"
            )
        parity = paper_parity()
        show(as_json, parity_content(parity), [parity_table(parity)])
        return
    config, toml = read_arguments(arguments)
    shape = backbones.read_shape(config.backbone, usable=False)
    method = build_method(config, shape, import_folders(toml, overrides_of(arguments)))
    rows = parameter_rows(method, shape)
    title = f"{method.name}, {config.task}, {config.backbone} ({shape.parameters:,} parameters)"
    show(as_json, rows, [parameter_table(rows, title)])
