"""The loss of Direct Preference Optimization, over the same forward passes as any training."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import log_softmax, logsigmoid

from fl_clients.backbone.batches import IGNORED, Example
from fl_clients.backbone.forward import Forward
from strategies.method import Adapter


@dataclass(frozen=True)
class TokenPreference:
    """A prompt with two answers, in tokens."""

    better: Example
    worse: Example
    reference: float
    """log π₀(y⁺) − log π₀(y⁻) of the bare backbone, nats."""

    def __len__(self) -> int:
        """Return the length of the longer example."""
        return max(len(self.better), len(self.worse))

    @property
    def answer(self) -> list[int]:
        """The better answer."""
        return self.better.answer


def answer_log_probabilities(forward: Forward, adapter: Adapter | None, examples: Sequence[Example]) -> torch.Tensor:
    """Return log π(answer | prompt) of each example, the sum over its tokens, nats; [examples].

    Args:
        forward: The frozen model.
        adapter: None: of the bare backbone.
        examples: At least one.
    """
    output = forward.run(adapter, examples, max(len(example.answer) for example in examples) + 1)
    logits, labels = output.logits[:, :-1].float(), output.batch.labels
    real = labels != IGNORED
    chosen = log_softmax(logits, dim=-1).gather(2, labels.where(real, 0)[..., None])[..., 0]
    return (chosen * real).sum(dim=1)


def preference_loss(
    forward: Forward, adapter: Adapter, preferences: Sequence[TokenPreference], beta: float
) -> torch.Tensor:
    """Return the mean of −log σ(β[(log π(y⁺) − log π(y⁻)) − (log π₀(y⁺) − log π₀(y⁻))]) (see `ClientTools.prefer`)."""
    both = [preference.better for preference in preferences] + [preference.worse for preference in preferences]
    better, worse = answer_log_probabilities(forward, adapter, both).chunk(2)
    reference = torch.tensor([preference.reference for preference in preferences], device=better.device)
    return -logsigmoid(beta * (better - worse - reference)).mean()


@torch.no_grad()
def with_reference(forward: Forward, pairs: Sequence[Sequence[Example]]) -> list[TokenPreference]:
    """Return preferences, each a better and a worse example, with what the bare backbone says of them."""
    token_preferences = []
    for better, worse in pairs:
        good, bad = answer_log_probabilities(forward, None, [better, worse]).tolist()
        token_preferences.append(TokenPreference(better, worse, good - bad))
    return token_preferences
