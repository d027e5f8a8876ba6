"""Where fedperfit keeps what can be made again: backbones and user tables."""

import os
from pathlib import Path


def cache_dir() -> Path:
    """Return the cache folder: `$FEDPERFIT_CACHE`, else `fedperfit` under the user's cache folder."""
    if explicit := os.environ.get("FEDPERFIT_CACHE"):
        return Path(explicit).expanduser().resolve()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser().resolve() / "fedperfit"
