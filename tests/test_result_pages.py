"""Every command of the pages about results runs as it is written, made small; the other pages: test_documents.py."""

from pathlib import Path

import pytest

from tests.test_documents import EXPERIMENTS, ROOT, checkout, run_page

__all__ = ["checkout"]
pytestmark = pytest.mark.integration


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_result_pages_commands_run(name: str, checkout: Path) -> None:
    run_page(ROOT / "docs" / f"{name}.md", checkout)
