"""What must be the same on every machine of a federation, so that it computes the same."""

import importlib.metadata
import platform
from contextlib import suppress
from hashlib import blake2b

from configs.import_path import PACKAGES, ROOT

_PACKAGES = ("fedperfit", "flwr", "torch", "transformers", "peft", "safetensors", "numpy")
CODE = "fedperfit's code"


def versions_here() -> dict[str, str]:
    """Return the versions of packages, and a digest of fedperfit's own code, which may differ under one version."""
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    for package in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    digest = blake2b(digest_size=8)
    for path in sorted(path for folder in PACKAGES for path in (ROOT / folder).rglob("*.py")):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return {**found, CODE: digest.hexdigest()}


def difference(there: dict[str, str]) -> str | None:
    """Say what another machine has that is not as here; None if nothing is."""
    for package, version in versions_here().items():
        if (other := there.get(package)) != version:
            return f"{package} is {other or 'not installed'} there, {version} here"
    return None
