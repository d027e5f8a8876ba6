"""Where a backbone's files come from, as arguments of transformers' `from_pretrained`."""

from pathlib import Path
from typing import Any


def pretrained(where: Path | str) -> dict[str, Any]:
    """Return the arguments that name a backbone; no checkpoint's own code is ever run.

    Args:
        where: A folder; or a hub id, with `@` and a revision if it is not the newest one.
    """
    arguments: dict[str, Any] = {"pretrained_model_name_or_path": where, "trust_remote_code": False}
    if isinstance(where, str) and "@" in where:
        arguments["pretrained_model_name_or_path"], _, arguments["revision"] = where.partition("@")
    return arguments
