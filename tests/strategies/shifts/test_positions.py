"""Which prompt tokens a shift acts on."""

import pytest
import torch

from strategies.shifts.positions import Positions

# One row: two padding tokens, five prompt tokens, two answer tokens.
PROMPT = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 0, 0]], dtype=torch.bool)


@pytest.mark.parametrize(
    ("text", "selected"),
    [
        ("all", [0, 0, 1, 1, 1, 1, 1, 0, 0]),
        ("all-f1", [0, 0, 0, 1, 1, 1, 1, 0, 0]),
        ("l2", [0, 0, 0, 0, 0, 1, 1, 0, 0]),
        ("f1", [0, 0, 1, 0, 0, 0, 0, 0, 0]),
        ("f1+l2", [0, 0, 1, 0, 0, 1, 1, 0, 0]),
        ("f7+l7", [0, 0, 1, 1, 1, 1, 1, 0, 0]),
    ],
)
def test_positions_select_prompt_tokens_only(text: str, selected: list[int]) -> None:
    assert Positions.parse(text).select(PROMPT).int().tolist() == [selected]


@pytest.mark.parametrize(
    "text", ["", "+", "f0", "l7+f7", "f7l7", "f7+", "+l7", "seven", "f-1", "F7", "all-", "all-f0", "all-l1"]
)
def test_malformed_positions_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="positions="):
        Positions.parse(text)
