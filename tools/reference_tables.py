"""Prints tables of comparisons and cold-start experiments as Markdown: `python tools/reference_tables.py FOLDER…`."""

import argparse
from pathlib import Path

from rich.table import Table

from simulations.display.tables import rows_of
from simulations.experiments.cold_start.schema import ColdStart
from simulations.experiments.cold_start.tables import cold_start_tables
from simulations.experiments.comparison.schema import Comparison
from simulations.experiments.comparison.tables import comparison_tables


def main() -> None:
    """Print the tables as in `docs/reference.md` and `docs/cold-start.md`; `tests/test_reference.py` compares them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="comparisons or cold-start experiments")
    for folder in parser.parse_args().folders:
        for table in read(folder):
            print(markdown(table))


def read(folder: Path) -> list[Table]:
    """Return the tables of a comparison or cold-start experiment."""
    if (folder / "compare.json").is_file():
        return comparison_tables(Comparison.model_validate_json((folder / "compare.json").read_bytes()))
    return cold_start_tables(ColdStart.model_validate_json((folder / "cold_start.json").read_bytes()))


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
