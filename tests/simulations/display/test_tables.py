"""Terminal tables: as wide as the terminal, with whole numbers."""

import io

import pytest
from rich.console import Console
from rich.table import Table

from simulations.display.tables import new_table, print_tables


def drawn(width: int, *tables: Table) -> list[str]:
    screen = Console(file=io.StringIO(), width=width, markup=False)
    print_tables(screen, tables)
    assert isinstance(screen.file, io.StringIO)
    return [line.rstrip() for line in screen.file.getvalue().splitlines()]


def numbers() -> Table:
    table = new_table(title="t")
    table.add_column("")
    for title in ("accuracy before stage 2", "bytes"):
        table.add_column(title, justify="right")
    table.add_row("a long name of a row", "0.544 ± 0.033", "81.00 MB")
    return table


def test_a_wide_terminal_shows_a_table_as_it_is() -> None:
    assert "                       accuracy before stage 2     bytes" in drawn(80, numbers())


@pytest.mark.parametrize("width", [36, 40, 50])
def test_in_a_narrow_one_headings_and_texts_wrap_and_numbers_stay_whole(width: int) -> None:
    lines = drawn(width, numbers())
    assert max(map(len, lines)) <= width
    assert any("0.544 ± 0.033" in line and "81.00 MB" in line for line in lines)


def test_tables_are_apart() -> None:
    lines = drawn(80, numbers(), numbers())
    assert [lines[place - 1] for place, line in enumerate(lines) if line == "t"][1:] == [""]
