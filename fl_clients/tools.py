"""What a client hands a method beside its examples (see `strategies.client_tools`)."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import torch

from fl_clients.backbone.batches import Example
from fl_clients.backbone.embedder import mean_embeddings
from fl_clients.backbone.states import end_states
from fl_clients.evaluate import answer_prompts
from fl_clients.fit import LocalFit
from fl_clients.lamp.user import Pair
from fl_clients.predict import generate
from fl_clients.preferences import preference_loss, with_reference
from fl_clients.prompts import question_room
from fl_clients.session import Session
from strategies.bounds import window
from strategies.client_tools import Preference, TextPair


class Tools:
    """One user's texts, and this process's bare backbone."""

    def __init__(self, session: Session, history: Sequence[TextPair], seed: int, secret: Callable[[], int]) -> None:
        """Bind to the process's session and one user.

        Args:
            session: The process's session.
            history: The user's items in the order of time.
            seed: Of trainings.
            secret: Returns what noise may follow from (`noise_secret`).
        """
        self._session, self._seed, self.secret = session, seed, secret
        self.task = session.task.name
        self.history = history

    def prompt(self, source: str) -> str:
        """Return the task's prompt for a text; an answer follows after one space."""
        return self._session.task.prompt.format(source=source)

    def answers(self, sources: Sequence[str]) -> list[str]:
        """Return what the bare backbone answers to texts, without the history."""
        session = self._session
        room = question_room(session)
        return answer_prompts(session, None, [session.encoder.prompt(source, room)[0] for source in sources], None)

    def generate(self, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
        """Continue texts, greedily, until the end of the line; a text that is too long is cut in its middle."""
        session = self._session
        tokens = [session.encoder.text(prompt, self._window() - max_new_tokens) for prompt in prompts]
        answers = [""] * len(prompts)
        for chosen in self._batches(tokens):
            texts = generate(session.plain, None, [tokens[i] for i in chosen], max_new_tokens, session.stop, None)
            for i, text in zip(chosen, texts, strict=True):
                answers[i] = text
        return answers

    def states(self, texts: Sequence[str], place: Literal["block", "mlp"]) -> torch.Tensor:
        """Return the bare backbone's hidden states at the end token after each text; [texts, blocks, d], fp32."""
        session = self._session
        end = [int(session.backbone.tokenizer.eos_token_id)]
        tokens = [session.encoder.text(text, self._window() - 1) for text in texts]
        vectors = torch.empty(len(texts), session.backbone.shape.blocks, session.backbone.shape.hidden)
        for chosen in self._batches(tokens):
            examples = [Example(tokens[i], end) for i in chosen]
            vectors[chosen] = end_states(session.plain, examples, place)
        return vectors

    def fit_on(self, pairs: Sequence[TextPair], budget_s: float) -> LocalFit:
        """Return the training loop of stage 2 on other examples than the user's own."""
        session, settings = self._session, self._session.config.personal
        examples = session.encoder.examples(pairs, settings.max_tokens)
        fit = LocalFit(session.forward, session.adapter, examples, settings, self._seed, tools=self)
        return replace(fit, budget_s=budget_s, gradient=session.gradient, clock=session.clock)

    def prefer(self, preferences: Sequence[Preference], beta: float, budget_s: float) -> LocalFit:
        """Return the training loop of stage 2 with the loss of Direct Preference Optimization."""
        session, settings = self._session, self._session.config.personal
        both = [
            session.encoder.examples(
                [Pair("", one.source, one.better), Pair("", one.source, one.worse)], settings.max_tokens
            )
            for one in preferences
        ]
        # An answer that is too long costs its preference.
        examples = with_reference(session.forward, [pair for pair in both if len(pair) == 2])
        loss_of = partial(preference_loss, beta=beta)
        fit = LocalFit(session.forward, session.adapter, examples, settings, self._seed, tools=self)
        return replace(fit, budget_s=budget_s, loss_of=loss_of, clock=session.clock)

    def embed(self, texts: Sequence[str], embedder: str) -> torch.Tensor:
        """Return sentence embeddings of length 1; [texts, dimensions], fp32."""
        size = self._session.config.evaluate.batch_size
        window = self._window()
        return mean_embeddings(self._session.backbone, embedder, texts, size, window)

    def _window(self) -> int:
        return window(self._session.backbone.shape)

    def _batches(self, tokens: Sequence[list[int]]) -> list[list[int]]:
        """Return the places of texts in batches of similar length."""
        order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
        size = self._session.config.evaluate.batch_size
        return [order[start : start + size] for start in range(0, len(order), size)]
