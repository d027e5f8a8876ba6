"""Merge TOML files and dotted overrides into one frozen RunConfig."""

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import BaseModel, ValidationError

from configs.errors import InputError, nearest
from configs.explain import explain, first_problem, source_of
from configs.schema import RunConfig

CONFIGS = Path(__file__).parent

Table = dict[str, Any]


def load_config(toml: Path | str | None = None, overrides: Sequence[str] = ()) -> RunConfig:
    """Merge defaults ← method preset ← task preset ← devices preset ← TOML file ← dotted overrides.

    A method preset's `[tasks.TASK]` table is merged after that task's preset and applies to that method only. With
    `preset = "paper"`, `configs/paper.toml` and the presets' `[paper]` tables are merged after the presets themselves.

    Args:
        toml: An experiment file; `None` starts from the defaults.
        overrides: `key=value` with dotted keys; a value that is not TOML (`3`, `true`, `[10, 12]`) is text.

    Raises:
        InputError: A file cannot be read, a key is unknown (the nearest known one is named), or a value
            is not allowed.
    """
    file = read_toml(Path(toml)) if toml else {}
    file.pop("sweep", None)  # the values that `sweep` tries, not a setting
    given = _merge(file, _parse_overrides(overrides))
    method = str(given.get("method", RunConfig.model_fields["method"].default))
    task = str(given.get("task", RunConfig.model_fields["task"].default))
    presets = [_method_preset(method)] if ":" not in method else []
    files = [(str(toml), file), *((f"method {method}", preset) for preset in presets)]
    for preset in presets:
        preset.pop("search", None)  # what `tune` tries, not a setting
        _check_method_file(preset, method)
    task_tables = [_of_the_task(preset.pop("tasks", {}), task, method) for preset in presets]
    if (task_preset := CONFIGS / "tasks" / f"{task}.toml").is_file():
        presets.append(read_toml(task_preset))
    presets += task_tables
    if isinstance(devices := given.get("devices"), dict) and devices.get("preset"):
        presets.append({"devices": _devices_preset(str(devices["preset"]))})
    papers = [preset.pop("paper", {}) for preset in presets]
    if ":" not in method:
        papers = papers[1:] + papers[:1]  # the method's table takes precedence over the task's
    merged: Table = {}
    if given.get("preset") == "paper":
        presets += [read_toml(CONFIGS / "paper.toml"), *papers]
    for part in presets:
        merged = _merge(merged, part)
    merged = _merge(merged, {key: value for key, value in given.items() if key != "method" or ":" in method})
    try:
        return RunConfig.model_validate(merged)
    except ValidationError as error:
        typed = {text.partition("=")[0].strip() for text in overrides}
        raise InputError(source_of(first_problem(error), files, typed) + explain(error)) from None


def as_override(value: Any) -> str:
    """Return a TOML value as an override has it; a list of numbers as people type it.

    Raises:
        InputError: It is a table.
    """
    if isinstance(value, dict) or (isinstance(value, list) and any(isinstance(each, dict) for each in value)):
        raise InputError(f"{value}: expected a value, not a table")
    if isinstance(value, list) and all(type(each) is int for each in value):
        return str(value).replace(" ", "")
    if isinstance(value, str):
        return value
    return " ".join(tomli_w.dumps({"value": value}).removeprefix("value = ").split())


def _check_method_file(preset: Table, method: str) -> None:
    """Refuse malformed tables, and what chooses further presets: those are read before a method's file."""
    tasks = preset.get("tasks", {})
    if not isinstance(tasks, dict) or not all(isinstance(part, dict) for part in tasks.values()):
        raise InputError(
            f"method {method}: tasks={tasks!r}: expected tables of keys, such as [tasks.movie_tagging.personal]"
        )
    tables = [preset, *tasks.values()]
    papers = [table.get("paper", {}) for table in tables]
    for paper in papers:
        if not isinstance(paper, dict):
            raise InputError(f"method {method}: paper={paper!r}: expected a table of keys")
    for table in (*tables, *papers):
        devices = table.get("devices")
        chosen: list[str] = [key for key in ("task", "preset") if key in table]
        chosen += ["devices.preset"] if isinstance(devices, dict) and "preset" in devices else []
        if chosen:
            raise InputError(f"method {method}: {chosen[0]}: set it in the experiment's file or as an override")


def import_folders(toml: Path | str | None = None, overrides: Sequence[str] = ()) -> list[str]:
    """Return the folders of a config's TOML files; its method may be imported from them too."""
    given = _merge(read_toml(Path(toml)) if toml else {}, _parse_overrides(overrides))
    method = str(given.get("method", ""))
    files = [*([Path(toml)] if toml else []), *([Path(method)] if method.endswith(".toml") else [])]
    return list(dict.fromkeys(str(file.resolve().parent) for file in files))


def method_search(method: str) -> Table:
    """Return the `[search]` table of a method's TOML: `shapes`, a list of tables, and `size`, a list of keys.

    Raises:
        InputError: It has other keys, or values of another kind.
    """
    search: Table = _method_preset(method).get("search", {}) if ":" not in method else {}
    shapes, size = search.get("shapes"), search.get("size")
    tables = isinstance(shapes, list) and all(isinstance(shape, dict) for shape in shapes)
    keys = isinstance(size, list) and all(isinstance(key, str) for key in size)
    if search and not (search.keys() == {"shapes", "size"} and tables and keys and shapes and size):
        raise InputError(f'method {method}: [search]: expected shapes = [{{key = value}}, …] and size = ["key", …]')
    return search


def _method_preset(method: str) -> Table:
    known = sorted(path.stem for path in (CONFIGS / "methods").glob("*.toml"))
    if method.endswith(".toml"):
        preset = read_toml(Path(method))
        named = str(preset.get("method"))
        if named in known:  # a variant of a preset
            return _merge(_method_preset(named), {key: value for key, value in preset.items() if key != "method"})
        if ":" not in named:
            raise InputError(f'{method}: expected it to set method = "module:Class", or a preset such as "perfit"')
        return preset
    if method not in known:
        hint = f"; did you mean {method}.toml?" if Path(f"{method}.toml").is_file() else nearest(method, known)
        raise InputError(
            f"method: unknown method '{method}'{hint} "
            f"(known: {', '.join(known)}, a TOML file, or an object reference 'module:Class')"
        )
    return read_toml(CONFIGS / "methods" / f"{method}.toml")


def _of_the_task(tasks: Table, task: str, method: str) -> Table:
    """Return the keys that a method's preset sets for one task only."""
    known = sorted(path.stem for path in (CONFIGS / "tasks").glob("*.toml"))
    for name in tasks:
        if name not in known:
            raise InputError(
                f"method {method}: [tasks.{name}]: unknown task{nearest(name, known)} (known: {', '.join(known)})"
            )
    return dict(tasks.get(task, {}))


def _devices_preset(name: str) -> Table:
    if name.endswith(".toml"):
        return read_toml(Path(name))
    known = sorted(path.stem for path in (CONFIGS / "devices").glob("*.toml"))
    if name not in known:
        raise InputError(
            f"devices.preset: unknown preset '{name}'{nearest(name, known)} (known: {', '.join(known)}, or a TOML file)"
        )
    return read_toml(CONFIGS / "devices" / f"{name}.toml")


def read_toml(path: Path) -> Table:
    """Read one TOML file.

    Raises:
        InputError: The file is missing or is not TOML (the line is named).
    """
    try:
        return _with_current_keys(tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        known = [str(file) for file in Path().glob("configs/experiments/*.toml")]
        hint = nearest(str(path), known) if path.suffix else f"; for a method, method={path}"
        raise InputError(f"{path}: no such config file{hint}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path}: not a readable TOML file: {error}") from None


def write_config(config: RunConfig, path: Path) -> None:
    """Write the resolved config; `load_config(path)` returns it unchanged."""
    path.write_text(dump_resolved(config), encoding="utf-8")


def dump_resolved(config: RunConfig) -> str:
    """Return the resolved config as TOML."""
    return tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))


def read_resolved(path: Path) -> RunConfig:
    """Read the config in a run record; it is complete, so no preset is merged.

    Raises:
        InputError: The file is missing or does not fit the schema.
    """
    try:
        return RunConfig.model_validate(read_toml(path))
    except ValidationError as error:
        raise InputError(f"{path}: {explain(error)}") from None


def parse_resolved(text: str) -> RunConfig:
    """Read a resolved config that was sent as text.

    Raises:
        InputError: It does not fit the schema.
    """
    try:
        return RunConfig.model_validate(_with_current_keys(tomllib.loads(text)))
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        raise InputError(f"cannot read the run's config: {error}") from None


def flatten(config: RunConfig) -> dict[str, Any]:
    """Return a config's values by dotted key, including the method's settings."""

    def walk(table: Table, prefix: str) -> Table:
        flat: Table = {}
        for key, value in table.items():
            flat |= walk(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        return flat

    return walk(config.model_dump(mode="json"), "")


def _with_current_keys(table: Table) -> Table:
    """Read version 0.1's `evaluate.stage` as `evaluate.point`: existing records and config files still have it."""
    evaluate = table.get("evaluate")
    if not isinstance(evaluate, dict) or "stage" not in evaluate:
        return table
    if "point" in evaluate:
        raise InputError("evaluate.stage: this is the old name of evaluate.point, which is given too; leave it out")
    renamed = {"point" if key == "stage" else key: value for key, value in evaluate.items()}
    return {**table, "evaluate": renamed}


def _merge(base: Table, over: Table) -> Table:
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if key in merged and isinstance(below, dict) != isinstance(value, dict) and below is not None:
            raise InputError(f"{key}: given as a value and as a group of keys")
        merged[key] = _merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _parse_overrides(overrides: Sequence[str]) -> Table:
    table: Table = {}
    for text in overrides:
        key, equals, value = text.partition("=")
        parts = key.strip().split(".")
        if not equals or not all(parts):
            raise InputError(f"'{text}': an override must be key=value, such as users.collective=100")
        nested: Table = {parts[-1]: _as_text(_parse_value(value.strip()), value.strip(), _type_of(parts))}
        for part in reversed(parts[:-1]):
            nested = {part: nested}
        table = _merge(table, _with_current_keys(nested))
    return table


def _type_of(parts: Sequence[str]) -> Any:
    """Return the type of a key of the config; None if there is no such key."""
    model: Any = RunConfig
    for part in parts[:-1]:
        field = model.model_fields.get(part)
        model = field.annotation if field else None
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            return None
    field = model.model_fields.get(parts[-1])
    return field.annotation if field else None


def _as_text(value: Any, typed: str, expected: Any) -> Any:
    """Return what was typed if the key is a text: a folder may be called 2024-01-01, a user 007."""
    if expected is str and not isinstance(value, str):
        return typed
    if expected == list[str] and not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
        inside = typed.removeprefix("[").removesuffix("]")
        items = re.findall(r"""\s*(?:"([^"]*)"|'([^']*)'|([^,]+))\s*(?:,|$)""", inside)
        return [(double or single or plain.strip()) for double, single, plain in items]
    return value


def _parse_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
