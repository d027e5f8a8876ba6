"""Versions that must match on every machine of a federation, so that all compute the same results."""

import importlib.metadata
import platform
from contextlib import suppress
from hashlib import blake2b

from configs.import_path import PACKAGES, ROOT

_PACKAGES = ("fedperfit", "flwr", "torch", "transformers", "peft", "safetensors", "numpy")
CODE = "fedperfit's code"


def versions_here() -> dict[str, str]:
    """Return package versions and a digest of fedperfit's code, which may differ under the same version."""
    versions = {"python": ".".join(platform.python_version_tuple()[:2])}
    for package in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    digest = blake2b(digest_size=8)
    for path in sorted(path for folder in PACKAGES for path in (ROOT / folder).rglob("*.py")):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return {**versions, CODE: digest.hexdigest()}


def difference(remote: dict[str, str]) -> str | None:
    """Describe the first version that differs on another machine; None if all match."""
    for package, version in versions_here().items():
        if (other := remote.get(package)) != version:
            return f"{package} is {other or 'not installed'} there, {version} here"
    return None
