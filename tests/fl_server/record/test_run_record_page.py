"""The page about run records lists the columns that the tables have, in their order."""

import re
from pathlib import Path

import pytest

from fl_server.record.tables import TABLES

PAGE = Path(__file__).parents[3] / "docs" / "run-record.md"


@pytest.mark.parametrize("name", TABLES)
def test_the_page_lists_every_column_of_a_table_and_no_other(name: str) -> None:
    section = PAGE.read_text(encoding="utf-8").partition(f"<code>{name}.parquet</code>")[2].partition("</details>")[0]
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == TABLES[name].names
