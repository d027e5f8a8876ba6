"""RAG: a question is preceded by the items of the user's history that match it best; nothing is trained or sent.

LaMP: Salemi et al., ACL 2024 (arXiv 2304.11406), with BM25 and k = 1, 2, 4 as in PerFit's appendix D.
"""

from torch import nn

from strategies.bounds import check_at_least
from strategies.client_tools import Context, UserTexts
from strategies.method import BackboneShape, Fit, FitResult, Tensors
from strategies.prompting.notes import Notes
from strategies.prompting.retrieval import best_matches
from strategies.sends_nothing import SendsNothing


class Rag(SendsNothing):
    """Prompts with k retrieved items."""

    name = "rag"
    trains_newcomers = False

    def __init__(self, k: int) -> None:
        """Take the settings.

        Args:
            k: Items that precede a question; a shorter history is used whole.

        Raises:
            ValueError: k is below 1.
        """
        check_at_least(1, k=k)
        self.k = k

    def client_attach(self, _model: nn.Module, _backbone: BackboneShape) -> Notes:
        """Attach nothing."""
        return Notes()

    def client_personalize(self, _adapter: Notes, _shared: Tensors, _fit: Fit) -> tuple[Tensors, FitResult]:
        """Keep nothing: the history itself is the model."""
        return {}, FitResult(0, 0)

    def client_context(self, _adapter: Notes, client: UserTexts, source: str) -> Context:
        """Return the k best matches of the history."""
        return Context(items=best_matches(client.history, source, self.k))

    def client_load(self, _adapter: Notes, _shared: Tensors, _private: Tensors | None) -> None:
        """Change nothing."""
