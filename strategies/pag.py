"""PAG: a profile of the user, written once by the backbone on the client, precedes every question.

Richardson et al. (arXiv 2310.20081), as in PerFit's appendix D.3; the items after it are retrieved as in RAG. With a
summary of preferences and without items it is LLM-REC (Lyu et al., arXiv 2307.15780).
"""

from typing import Literal

from torch import nn

from strategies.bounds import check_at_least, check_written
from strategies.client_tools import Context, UserTexts
from strategies.method import BackboneShape, Fit, FitResult, Tensors
from strategies.prompting.notes import Notes, pack_text, unpack_text
from strategies.prompting.retrieval import best_matches
from strategies.prompting.wording import WORDINGS, shown_items, spread_items
from strategies.sends_nothing import SendsNothing


class Pag(SendsNothing):
    """Prompts with a profile and k retrieved items."""

    name = "pag"
    trains_newcomers = False

    def __init__(
        self, k: int, profile_items: int, profile_tokens: int, about: Literal["profile", "preferences"]
    ) -> None:
        """Take the settings.

        Args:
            k: Items that follow the profile; 0: none.
            profile_items: Items that the backbone reads, spread over the history (the source draws them at random).
            profile_tokens: Maximum length of the profile.
            about: What the backbone writes: how the user answers, or what the user likes.

        Raises:
            ValueError: A number is too small.
        """
        check_at_least(0, k=k)
        check_at_least(1, profile_items=profile_items, profile_tokens=profile_tokens)
        self.k, self.profile_items, self.profile_tokens, self.about = k, profile_items, profile_tokens, about
        self.name = "pag" if about == "profile" else "llm-rec"

    def check(self, backbone: BackboneShape) -> None:
        """Refuse a profile that is too long for the backbone."""
        check_written(backbone, profile_tokens=self.profile_tokens)

    def client_attach(self, _model: nn.Module, _backbone: BackboneShape) -> Notes:
        """Attach nothing; prompts will begin with the profile."""
        return Notes()

    def client_personalize(self, _adapter: Notes, _shared: Tensors, fit: Fit) -> tuple[Tensors, FitResult]:
        """Let the backbone write the profile."""
        client = fit.client
        begin: str = getattr(WORDINGS[client.task], self.about)
        shown = shown_items(client.task, spread_items(client.history, self.profile_items))
        (rest,) = client.generate([f"{shown}\n\n{begin}"], self.profile_tokens)
        return pack_text(f"{begin} {rest}"), FitResult(0, 0)

    def client_context(self, adapter: Notes, client: UserTexts, source: str) -> Context:
        """Return the profile and the k best matches of the history."""
        return Context(adapter.text, best_matches(client.history, source, self.k))

    def client_load(self, adapter: Notes, _shared: Tensors, private: Tensors | None) -> None:
        """Set the profile."""
        adapter.text = unpack_text(private)
