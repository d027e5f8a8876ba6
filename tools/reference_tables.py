"""Prints the tables of experiments as Markdown: `python tools/reference_tables.py FOLDER…`."""

import argparse
from pathlib import Path

from rich.table import Table

from simulations.display.tables import rows_of
from simulations.experiments.ability.schema import Ability
from simulations.experiments.ability.tables import ability_tables
from simulations.experiments.analysis.schema import Analysis
from simulations.experiments.analysis.tables import analysis_tables
from simulations.experiments.cold_start.schema import ColdStart
from simulations.experiments.cold_start.tables import cold_start_tables
from simulations.experiments.comparison.schema import Comparison
from simulations.experiments.comparison.tables import comparison_tables
from simulations.experiments.sweep.schema import Sweep
from simulations.experiments.sweep.tables import sweep_table

_READERS = {
    "compare.json": lambda content: comparison_tables(Comparison.model_validate_json(content)),
    "cold_start.json": lambda content: cold_start_tables(ColdStart.model_validate_json(content)),
    "sweep.json": lambda content: [sweep_table(Sweep.model_validate_json(content))],
    "analysis.json": lambda content: analysis_tables(Analysis.model_validate_json(content)),
    "ability.json": lambda content: ability_tables(Ability.model_validate_json(content)),
}


def main() -> None:
    """Print the tables as on the pages about results; `tests/test_reference.py` compares them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="experiments")
    for folder in parser.parse_args().folders:
        for table in read(folder):
            print(markdown(table))


def read(folder: Path) -> list[Table]:
    """Return the tables of an experiment."""
    for name, reader in _READERS.items():
        if (folder / name).is_file():
            return reader((folder / name).read_bytes())
    raise SystemExit(f"{folder}: expected one of {', '.join(_READERS)}")


def markdown(table: Table) -> str:
    """Return a terminal table as a Markdown table, with its title above and its caption below."""
    lines = [
        [str(column.header) for column in table.columns],
        ["--:" if column.justify == "right" else "---" for column in table.columns],
        *rows_of(table),
    ]
    written = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"**{table.title}**\n\n{written}\n\n{table.caption}.\n"


if __name__ == "__main__":
    main()
