"""`fedperfit backbone`: the built-in models, which need no model hub."""

from typing import Annotated

import typer

from simulations.cli.options import Json, show
from simulations.display.tables import new_table

backbone_app = typer.Typer(
    no_args_is_help=True,
    epilog="Example: `fedperfit backbone list`",
    help="Built-in models, which need no model hub: backbones and a sentence embedder.",
)


@backbone_app.command("list")
def backbone_list(as_json: Json = False) -> None:
    """List the built-in models and whether they are in the cache.

    Example: `fedperfit backbone list`
    """
    from fl_clients.backbone import builtin

    table = new_table("name", "description", "fetched")
    models = builtin.BUILT_IN | builtin.EMBEDDERS
    fetched = {name: builtin.is_fetched(name) for name in models}
    for name, text in models.items():
        table.add_row(name, text, "yes" if fetched[name] else "no")
    rows = [{"name": name, "what": text, "fetched": fetched[name]} for name, text in models.items()]
    show(as_json, rows, [table])


@backbone_app.command("fetch")
def backbone_fetch(
    name: Annotated[str, typer.Argument(help="A name from `fedperfit backbone list`.")],
) -> None:
    """Fetch a built-in model into the cache folder.

    Example: `fedperfit backbone fetch smollm2-135m`
    """
    from fl_clients.backbone.builtin import fetch

    print(fetch(name))
