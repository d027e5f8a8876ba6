"""Makes sure that `configs`, `strategies` and the other packages of fedperfit are ours, whatever lies in the folder.

Their names are ordinary words. A notebook, a script or `python -m` searches its own folder first, so a `configs.py`
or a folder `strategies` there would be imported in place of ours. Each package is therefore imported from where
fedperfit is installed before anything else asks for it; its modules are then found through it.
"""

import importlib.util
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]


def claim_packages() -> None:
    """Import every package of fedperfit from its own folder.

    Raises:
        ImportError: Another module of that name was imported before; it is named.
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
