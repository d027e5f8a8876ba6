"""Ensures that `configs`, `strategies` and so on are fedperfit's packages, whatever the current folder contains.

These names are common words. A notebook, a script or `python -m` searches the current folder first, so a `configs.py`
or a folder `strategies` in it would be imported instead. Each package is therefore imported from fedperfit's
installation before anything else imports it; its modules are then found through it.
"""

import importlib.util
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]


def claim_packages() -> None:
    """Import every package of fedperfit from its installation.

    Raises:
        ImportError: Another module of that name was already imported; the message names it.
    """
    _claim("configs")
    from configs.import_path import PACKAGES

    for name in PACKAGES:
        _claim(name)


def _claim(name: str) -> None:
    if name not in sys.modules:
        _import_from_root(name)
    module = sys.modules[name]
    ours = _ROOT / name / "__init__.py"
    if getattr(module, "__file__", None) is None or Path(str(module.__file__)).resolve() != ours:
        where = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ["another module"])))
        raise ImportError(
            f"fedperfit needs its own package '{name}', but {where} was imported under that name first; "
            "rename it, or import fedperfit before it"
        )


def _import_from_root(name: str) -> None:
    spec = importlib.util.spec_from_file_location(
        name, _ROOT / name / "__init__.py", submodule_search_locations=[str(_ROOT / name)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
