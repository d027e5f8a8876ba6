"""Sentence embeddings: the mean of a model's last hidden states, of length 1."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch.nn.functional import normalize
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerBase

from fl_clients.backbone.builtin import EMBEDDERS, fetch
from fl_clients.backbone.load import Backbone
from fl_clients.words import word_counts

COMPUTED = ("backbone", "words")
"""Embedders that need no file."""
_HASHED = 384
"""Places that words are hashed to."""
_WINDOW = 256
"""Tokens that the built-in embedder was trained on; longer texts are cut at their end."""


@torch.no_grad()
def mean_embeddings(
    backbone: Backbone, embedder: str, texts: Sequence[str], batch_size: int, window: int
) -> torch.Tensor:
    """Embed texts; [texts, dimensions], fp32 on the CPU, every row of length 1 (0 for `words` of a text without any).

    Args:
        backbone: Embeds them itself if `embedder` is `backbone`.
        embedder: `backbone`; `words`, which counts them; or a key of `builtin.EMBEDDERS`.
        texts: At least one; an empty text is embedded as its end token.
        batch_size: Texts computed together.
        window: Maximum tokens of a text for the backbone.
    """
    if embedder == "words":
        return normalize(torch.stack([_words(text) for text in texts]), dim=1)
    if embedder == "backbone":
        model, tokenizer, longest = backbone.model.get_decoder(), backbone.tokenizer, window
    else:
        model, tokenizer = _load(embedder)
        longest = _WINDOW
    rows = []
    for start in range(0, len(texts), batch_size):
        tokens = [_tokens(tokenizer, text, longest) for text in texts[start : start + batch_size]]
        length = max(map(len, tokens))
        ids = torch.zeros(len(tokens), length, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, of_text in enumerate(tokens):
            ids[row, : len(of_text)], mask[row, : len(of_text)] = torch.tensor(of_text), 1
        device = next(model.parameters()).device
        states = model(input_ids=ids.to(device), attention_mask=mask.to(device)).last_hidden_state.float().cpu()
        weights = mask[..., None].float()
        rows.append(normalize((states * weights).sum(dim=1) / weights.sum(dim=1), dim=1))
    return torch.cat(rows)


def _words(text: str) -> torch.Tensor:
    """Count a text's words at hashed places, [_HASHED], in logarithms: an ablation of embeddings that know meaning."""
    return torch.from_numpy(word_counts(text, _HASHED)).float().log1p()


def _tokens(tokenizer: PreTrainedTokenizerBase, text: str, longest: int) -> list[int]:
    tokens: list[int] = tokenizer.encode(text, add_special_tokens=True, truncation=True, max_length=longest)
    return tokens or [int(tokenizer.eos_token_id)]


@lru_cache(maxsize=1)
def _load(name: str) -> tuple[Any, PreTrainedTokenizerBase]:
    assert name in EMBEDDERS
    folder = fetch(name)
    return AutoModel.from_pretrained(folder, local_files_only=True).eval(), AutoTokenizer.from_pretrained(folder)
