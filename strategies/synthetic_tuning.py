"""DPO and SFT on the pairs that Chameleon edits by: what training on them costs and brings (its section 4.5).

Rafailov et al., NeurIPS 2023 (arXiv 2305.18290); SFT takes the personal answers alone. Each user tunes a LoRA, and
nothing is sent.
"""

from dataclasses import replace
from typing import Literal

from torch import nn

from strategies import lora
from strategies.bounds import check_at_least, check_written
from strategies.client_tools import Preference
from strategies.lora.adapters import LoraAdapters
from strategies.lora.common import PERSONAL, PRIVATE, LoraSettings
from strategies.method import BackboneShape, Fit, FitResult, Tensors
from strategies.prompting.synthetic_pairs import (
    AnsweredText,
    differing,
    representative_places,
    write_insights,
    write_pairs,
)
from strategies.sends_nothing import SendsNothing


class SyntheticTuning(SendsNothing):
    """W ← W + (α/r)B_iA_i, trained on synthetic answers."""

    def __init__(
        self,
        loss: Literal["dpo", "sft"],
        beta: float,
        budget_s: float,
        items: int,
        insight_tokens: int,
        answer_tokens: int,
        embedder: str,
        rank: int,
        alpha: int,
        dropout: float,
        targets: list[str],
        blocks: list[int] | str,
        seed: int,
    ) -> None:
        """Take the settings; those of the pairs as for `Chameleon`, those of LoRA as in `LoraSettings`.

        Args:
            loss: `dpo` prefers the personal to the neutral answer; `sft` learns the personal one.
            beta: β of DPO.
            budget_s: Seconds after which training stops; 0: no limit. With one, results depend on the machine.
            items: As for `Chameleon`.
            insight_tokens: As for `Chameleon`.
            answer_tokens: As for `Chameleon`.
            embedder: As for `Chameleon`.
            rank: r.
            alpha: α.
            dropout: Of LoRA's input.
            targets: Adapted modules.
            blocks: Adapted blocks.
            seed: The run's seed.

        Raises:
            ValueError: A setting is outside its range.
        """
        if not beta > 0:
            raise ValueError(f"settings.beta={beta}: expected a number above 0")
        check_at_least(0, budget_s=budget_s)
        check_at_least(1, items=items, insight_tokens=insight_tokens, answer_tokens=answer_tokens)
        self.name = loss
        self.beta, self.budget_s = beta, budget_s
        self.items, self.tokens, self.embedder = items, (insight_tokens, answer_tokens), embedder
        self.lora = LoraSettings(rank, alpha, dropout, tuple(targets), blocks)
        self.seed = seed
        self._begin: Tensors = {}

    def check(self, backbone: BackboneShape) -> None:
        """Refuse modules that the backbone does not have, and texts that are too long for it."""
        self.lora.on(backbone)
        check_written(backbone, insight_tokens=self.tokens[0], answer_tokens=self.tokens[1])

    def client_attach(self, model: nn.Module, backbone: BackboneShape) -> LoraAdapters:
        """Attach the adapter."""
        adapter = self.lora.on(backbone)
        self._begin = lora.start(adapter, backbone, PRIVATE, self.seed, PERSONAL)
        return lora.attach(model, {PERSONAL: adapter})

    def client_personalize(self, adapter: LoraAdapters, _shared: Tensors, fit: Fit) -> tuple[Tensors, FitResult]:
        """Write pairs, then train A_i and B_i on them; without a pair whose answers differ, nothing is trained."""
        client = fit.client
        items = [client.history[place] for place in representative_places(client, self.items, self.embedder)]
        pairs = differing(write_pairs(client, items, write_insights(client, items, self.tokens[0]), self.tokens[1]))
        figures = {"pairs": float(len(pairs)), "discarded": float(len(items) - len(pairs))}
        if not pairs:
            return {}, FitResult(0, 0, figures=figures)
        adapter.use(PERSONAL)
        if self.name == "dpo":
            preferences = [Preference(pair.source, pair.personal, pair.neutral) for pair in pairs]
            tune = client.prefer(preferences, self.beta, self.budget_s)
        else:
            tune = client.fit_on([AnsweredText(pair.source, pair.personal) for pair in pairs], self.budget_s)
        private, result = lora.train_personal(adapter, self._begin, tune)
        return private, replace(result, figures=figures)

    def client_load(self, adapter: LoraAdapters, _shared: Tensors, private: Tensors | None) -> None:
        """Set A_i and B_i; without them the backbone acts unchanged."""
        adapter.load(PERSONAL, private or self._begin, PRIVATE)
        adapter.use(PERSONAL)

    def private_parameters(self, backbone: BackboneShape) -> int:
        """Return P."""
        return lora.parameters(self.lora.on(backbone), backbone)
