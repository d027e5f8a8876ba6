"""A served model as lm-eval sees a language model."""

import contextlib
import io
import math
from collections.abc import Sequence
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.evaluator import evaluate
from torch.nn.functional import log_softmax

from fl_clients.backbone.batches import IGNORED, Example
from fl_clients.backbone.forward import Forward
from fl_clients.predict import generate
from simulations.run.served import ServedModel
from strategies.method import Adapter
from strategies.metrics.points import EvaluationPoint

_BATCH = 16
_NEW_TOKENS = 256
"""Length of a generated answer unless the task says another."""


class ServedLanguageModel(LM):
    """The backbone, bare, with the collective part or with a user's model; contexts are prompts, as for users."""

    def __init__(self, model: ServedModel, point: EvaluationPoint) -> None:
        """Set the adapter to what is served at an evaluation point."""
        super().__init__()
        model.personalise(point == EvaluationPoint.PERSONALISED)
        self._adapter: Adapter | None = None if point == EvaluationPoint.BASE else model.adapter
        self._forward = Forward(model.backbone, None)
        self._tokenizer = model.backbone.tokenizer
        self._longest = int(getattr(model.backbone.model.config, "max_position_embeddings", None) or 2048)

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Return log p(continuation | context) in nats, and whether greedy decoding would give it."""
        return self._score([self._example(*request.args) for request in requests])

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Return log p(text) in nats, in windows of the backbone's length."""
        found = []
        for request in requests:
            tokens = [self._begin(), *self._encode(request.args[0])]
            window = self._longest - 1
            examples = [
                Example(tokens[start : start + 1], tokens[start + 1 : start + 1 + window])
                for start in range(0, len(tokens) - 1, window)
            ]
            found.append(sum(score for score, _ in self._score(examples)))
        return found

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Continue contexts greedily until a text that ends the answer."""
        answers = []
        end = frozenset({int(self._tokenizer.eos_token_id)})
        for request in requests:
            context, settings = request.args
            length = int(settings.get("max_gen_toks", _NEW_TOKENS))
            prompt = (self._encode(context) or [self._begin()])[-(self._longest - length) :]
            text = generate(self._forward, self._adapter, [prompt], length, end, None)[0]
            stops = settings.get("until") or []
            for stop in [stops] if isinstance(stops, str) else stops:
                text = text.split(stop)[0]
            answers.append(text)
        return answers

    def bits_per_byte(self, texts: Sequence[str]) -> list[float]:
        """Return the bits that each byte of a text after its first sentence costs."""
        examples, sizes = [], []
        for text in texts:
            first, _, rest = text.partition(". ")
            examples.append(self._example(f"{first}.", f" {rest}"))
            sizes.append(len(f" {rest}".encode()))
        nats = [-score for score, _ in self._score(examples)]
        return [value / size / math.log(2) for value, size in zip(nats, sizes, strict=True)]

    def _example(self, context: str, continuation: str) -> Example:
        """Tokenise both together, as a text; spaces at the context's end belong to the continuation."""
        bare = context.rstrip()
        continuation = context[len(bare) :] + continuation
        prompt = self._encode(bare)
        answer = self._encode(bare + continuation)[len(prompt) :]
        return Example((prompt or [self._begin()])[-(self._longest - len(answer)) :], answer)

    @torch.no_grad()
    def _score(self, examples: Sequence[Example]) -> list[tuple[float, bool]]:
        order = sorted(range(len(examples)), key=lambda place: len(examples[place]))
        found: dict[int, tuple[float, bool]] = {}
        for start in range(0, len(order), _BATCH):
            chosen = order[start : start + _BATCH]
            batch = [examples[place] for place in chosen]
            output = self._forward.run(self._adapter, batch, max(len(example.answer) for example in batch) + 1)
            logits, labels = log_softmax(output.logits[:, :-1].float(), dim=-1), output.batch.labels
            real = labels != IGNORED
            scores = (logits.gather(2, labels.where(real, 0)[..., None])[..., 0] * real).sum(dim=1)
            greedy = ((logits.argmax(dim=-1) == labels) | ~real).all(dim=1)
            found |= dict(zip(chosen, zip(scores.tolist(), greedy.tolist(), strict=True), strict=True))
        return [found[place] for place in range(len(examples))]

    def _encode(self, text: str) -> list[int]:
        tokens: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return tokens

    def _begin(self) -> int:
        return int(self._tokenizer.bos_token_id or self._tokenizer.eos_token_id)


def score_tasks(model: LM, tasks: Sequence[Any], manager: Any, limit: int | None) -> dict[str, tuple[str, list[float]]]:
    """Run tasks of lm-eval; return each one's first metric that items have, and its value for every item."""
    with contextlib.redirect_stderr(io.StringIO()):  # progress bars
        found = evaluate(model, manager.load([*tasks]), limit=limit, bootstrap_iters=0, log_samples=True)
    scores = {}
    for task, samples in found["samples"].items():
        metrics = [key.partition(",")[0] for key in found["results"][task]]
        metric = next(name for name in metrics if isinstance(samples[0].get(name), int | float))
        ordered = sorted(samples, key=lambda sample: int(sample["doc_id"]))
        scores[task] = (metric, [float(sample[metric]) for sample in ordered])
    return scores
