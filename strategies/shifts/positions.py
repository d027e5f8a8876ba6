"""Which prompt tokens a shift acts on: `f7+l7`, `l7`, `f7` or `all` (PerFit, Table 9), or `all-f1`."""

import re
from dataclasses import dataclass

import torch

_ALL = re.compile(r"all(?:-f(?P<spared>[1-9]\d*))?")
_PATTERN = re.compile(r"(?:f(?P<first>[1-9]\d*))?\+?(?:l(?P<last>[1-9]\d*))?")


@dataclass(frozen=True)
class Positions:
    """The first `first` and the last `last` prompt tokens; both `None`: every prompt token but the first `spared`."""

    first: int | None
    last: int | None
    spared: int = 0

    @classmethod
    def parse(cls, text: str) -> "Positions":
        """Read the paper's notation, or `all-f1`: a model's first token often is an outlier of the residual stream.

        Raises:
            ValueError: `text` is not `all`, `all-fN`, `fN`, `lN` or `fN+lN` with N ≥ 1.
        """
        if everything := _ALL.fullmatch(text):
            return cls(None, None, int(everything["spared"] or 0))
        match = _PATTERN.fullmatch(text)
        both = match is not None and match["first"] is not None and match["last"] is not None
        if match is None or not (match["first"] or match["last"]) or ("+" in text) != both:
            raise ValueError(
                f"positions='{text}': expected 'all', 'all-f1', 'f7', 'l7' or 'f7+l7' (any numbers from 1)"
            )
        return cls(int(match["first"] or 0), int(match["last"] or 0))

    def select(self, prompt: torch.Tensor) -> torch.Tensor:
        """Return the mask of intervened tokens.

        In a prompt shorter than first + last, every token is selected once.

        Args:
            prompt: Boolean mask [batch, length] of the prompt's tokens.
        """
        from_start = prompt.cumsum(dim=1)
        if self.first is None or self.last is None:
            return prompt & (from_start > self.spared)
        from_end = from_start[:, -1:] - from_start + 1
        return prompt & ((from_start <= self.first) | (from_end <= self.last))
