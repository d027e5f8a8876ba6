"""Finds the class that a config names as its method, and builds it from the config's values."""

import importlib
import inspect
import sys
import threading
from collections.abc import Mapping, Sequence
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from types import ModuleType
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from configs.errors import nearest
from configs.import_path import PACKAGES
from strategies.method import Method
from strategies.moved import moved_hint

IMPORTING = threading.RLock()
"""Held while a method, or a Flower app that uses one, is imported.

The process of `flwr run .` imports the ServerApp and its method in one thread and the ClientApp in another. At the end
of its import, `transformers` replaces its module object; a thread that imports it at the same time gets the old one.
"""


def load_method(
    reference: str, values: Mapping[str, Any], settings: Mapping[str, Any], import_path: Sequence[str] = ()
) -> Method:
    """Build the method that `reference` names.

    Args:
        reference: `module:Class`.
        values: Config values available to every method by name (`sites`, `rank_shared`, …); the constructor gets
            those it has a parameter for.
        settings: Arguments for this method only; each must be a parameter of the constructor.
        import_path: Folders to import the method from, besides what is installed. They stay at the end of `sys.path`,
            for what the method imports later.

    Raises:
        ValueError: The reference cannot be imported, is not a Method, or refuses its arguments.
    """
    module_name, _, class_name = reference.partition(":")
    try:
        with IMPORTING:
            factory = getattr(_import(module_name, import_path), class_name)
    except Exception as error:  # an imported file may raise anything
        problem = f"{type(error).__name__}: {error}{moved_hint(error) or _own_folder_hint(module_name, error)}"
        raise ValueError(f"method '{reference}' cannot be imported: {problem}") from error
    # Before anything is called: a record or a TOML file may name any object.
    functions = [member for member in _NO_DEFAULT if callable(getattr(Method, member, None))]
    if not isinstance(factory, type) or any(not hasattr(factory, name) for name in functions):
        lacks = ", ".join(name for name in functions if not hasattr(factory, name)) or "everything: it is no class"
        raise ValueError(f"method '{reference}' does not implement strategies.method.Method: it lacks {lacks}")
    parameters = _signature(reference, factory).parameters
    _check_settings(reference, parameters, values, settings)
    chosen = {key: value for key, value in values.items() if key in parameters}
    method = factory(**{**chosen, **settings})
    if missing_members := _missing(method):
        lacks = ", ".join(missing_members)
        raise ValueError(f"method '{reference}' does not implement strategies.method.Method: it lacks {lacks}")
    if not isinstance(method, Method):
        lacks = ", ".join(sorted(member for member in _EVERY_MEMBER if not hasattr(method, member)))
        raise ValueError(
            f"method '{reference}' does not implement strategies.method.Method: it lacks {lacks}, which classes that "
            "name Method as their base have"
        )
    return method


def parameters_of(reference: str, import_path: Sequence[str] = ()) -> set[str]:
    """Return the names of the constructor's parameters of a method that `load_method` has accepted."""
    module_name, _, class_name = reference.partition(":")
    with IMPORTING:
        return set(inspect.signature(getattr(_import(module_name, import_path), class_name)).parameters)


def _signature(reference: str, factory: type) -> inspect.Signature:
    """Return the constructor's parameters, with the types that `from __future__ import annotations` leaves as text."""
    try:
        return inspect.signature(factory, eval_str=True)
    except NameError as error:
        raise ValueError(
            f"method '{reference}': a type of its constructor's parameters is not known: {error}"
        ) from None


def _own_folder_hint(module_name: str, error: Exception) -> str:
    top = module_name.partition(".")[0]
    if not isinstance(error, ModuleNotFoundError):
        return ""
    if top not in PACKAGES:
        return "; if it is yours, put its folder on PYTHONPATH" if error.name == top else ""
    return f"; '{top}' is fedperfit's own package, so a folder of that name is not searched: rename yours"


def _check_settings(
    reference: str,
    parameters: Mapping[str, inspect.Parameter],
    values: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> None:
    """Refuse settings that the constructor does not take or that have another type, and missing ones."""
    for key in settings:
        if key in values:
            raise ValueError(f"settings.{key}: this key belongs at the top level of the config, not under settings")
        if key not in parameters:
            accepted = [name for name in parameters if name not in values]
            takes = ", ".join(accepted) or "no settings"
            raise ValueError(f"settings.{key}: {reference} takes {takes}{nearest(key, accepted)}")
        expected = parameters[key].annotation
        if expected is not inspect.Parameter.empty:
            _check_type(f"settings.{key}", settings[key], expected)
    missing = [
        f"settings.{key}"
        for key, parameter in parameters.items()
        if key not in values
        and key not in settings
        and parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if missing:
        raise ValueError(f"method '{reference}' needs {', '.join(missing)}")


def _import(module_name: str, import_path: Sequence[str]) -> ModuleType:
    """Import a module, from `import_path` before anything that is not imported yet.

    The folders only ever join the end of `sys.path`: other threads and processes copy it, and a folder `configs` in one
    of them must not hide fedperfit's own.
    """
    sys.path += [folder for folder in import_path if folder not in sys.path]
    top = module_name.partition(".")[0]
    spec = None if top in sys.modules else PathFinder.find_spec(top, list(import_path))
    if spec is not None and spec.loader is not None:
        sys.modules[top] = module = module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[top]
            raise
    return importlib.import_module(module_name)


_NO_DEFAULT = (
    *("name", "first_round", "server_init", "server_aggregator"),
    *("client_attach", "client_train", "client_load"),
)
"""What every method must have itself."""


_EVERY_MEMBER = [*Method.__annotations__, *(name for name in vars(Method) if not name.startswith("_"))]


def _missing(method: object) -> list[str]:
    """Return the members that a method lacks, or has only as `Method` declares them."""
    declared = vars(Method)
    return [
        member
        for member in _NO_DEFAULT
        if not hasattr(method, member)
        or (member in declared and getattr(type(method), member, None) is declared[member])
    ]


def _check_type(key: str, value: Any, expected: Any) -> None:
    try:
        TypeAdapter(expected, config=ConfigDict(strict=True, allow_inf_nan=False)).validate_python(value)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]["msg"]
        raise ValueError(f"{key}={value!r}: {problem[0].lower()}{problem[1:]}") from None
