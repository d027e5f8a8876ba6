"""A served model as lm-eval sees a language model."""

import contextlib
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.metrics import mean
from lm_eval.api.model import LM
from lm_eval.evaluator import evaluate
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch.nn.functional import log_softmax

from fl_clients.backbone.batches import IGNORED, Example, begin_tokens
from fl_clients.backbone.forward import Forward
from fl_clients.predict import generate_tokens
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
        # As in training: some backbones fail without it.
        self._begin = begin_tokens(self._tokenizer)
        self._longest = int(getattr(model.backbone.model.config, "max_position_embeddings", None) or 2048)

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Return log p(continuation | context) in nats, and whether greedy decoding would give it."""
        return self._score([self._example(*request.args) for request in requests])

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Return log p(text) in nats, in windows of the backbone's length; one token of each is a prompt."""
        start = (self._begin or [int(self._tokenizer.eos_token_id)])[0]
        totals = []
        for request in requests:
            windows = get_rolling_token_windows(self._encode(request.args[0]), start, self._longest, 1)
            pairs = map(make_disjoint_window, windows)
            totals.append(sum(score for score, _ in self._score([Example(*pair) for pair in pairs])))
        return totals

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Continue contexts greedily until a text that ends the answer."""
        answers = []
        end = frozenset({int(self._tokenizer.eos_token_id)})
        for request in requests:
            context, settings = request.args
            length = min(int(settings.get("max_gen_toks", _NEW_TOKENS)), self._longest - 1)
            prompt = self._prompt(self._encode(context), self._longest - length)
            (tokens,) = generate_tokens(self._forward, self._adapter, [prompt], length, end, None)
            text = str(self._tokenizer.decode(tokens, skip_special_tokens=True))
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
        """Tokenise both together, as one text; spaces at the context's end belong to the continuation."""
        bare = context.rstrip()
        prompt = self._encode(bare)
        answer = self._encode(context + continuation)[len(prompt) :][: self._longest - 1]
        return Example(self._prompt(prompt, self._longest - len(answer)), answer)

    def _prompt(self, tokens: list[int], room: int) -> list[int]:
        """Return a context's last tokens, after the begin token if there is one; `room` tokens, at least one."""
        last = tokens[max(0, len(tokens) - room + len(self._begin)) :]
        return [*self._begin, *last] or [int(self._tokenizer.eos_token_id)]

    @torch.no_grad()
    def _score(self, examples: Sequence[Example]) -> list[tuple[float, bool]]:
        order = sorted(range(len(examples)), key=lambda place: len(examples[place]))
        scored: dict[int, tuple[float, bool]] = {}
        for start in range(0, len(order), _BATCH):
            chosen = order[start : start + _BATCH]
            batch = [examples[place] for place in chosen]
            output = self._forward.run(self._adapter, batch, max(len(example.answer) for example in batch) + 1)
            logits, labels = log_softmax(output.logits[:, :-1].float(), dim=-1), output.batch.labels
            real = labels != IGNORED
            scores = (logits.gather(2, labels.where(real, 0)[..., None])[..., 0] * real).sum(dim=1)
            greedy = ((logits.argmax(dim=-1) == labels) | ~real).all(dim=1)
            scored |= dict(zip(chosen, zip(scores.tolist(), greedy.tolist(), strict=True), strict=True))
        return [scored[place] for place in range(len(examples))]

    def _encode(self, text: str) -> list[int]:
        tokens: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return tokens


def mean_metric(task: Any) -> str | None:
    """Return the first metric of a task of lm-eval that is a mean over items; None if there is none."""
    return next((name for name, function in task.aggregation().items() if function is mean), None)


def score_tasks(model: LM, tasks: Mapping[str, Any], limit: int | None) -> dict[str, tuple[str, list[float]]]:
    """Return each task's `mean_metric` and its value for every item, in order; of several filters, the first.

    Args:
        model: Who answers.
        tasks: What lm-eval's `TaskManager.load` returned.
        limit: Most items of each task; None: all.
    """
    with contextlib.redirect_stderr(io.StringIO()):  # progress bars
        samples = evaluate(model, tasks, limit=limit, bootstrap_iters=0, log_samples=True)["samples"]
    scores = {}
    for name, task in tasks["tasks"].items():
        metric = str(mean_metric(task))
        first = samples[name][0]["filter"]
        items = sorted(
            (item for item in samples[name] if item["filter"] == first), key=lambda item: int(item["doc_id"])
        )
        scores[name] = (metric, [float(item[metric]) for item in items])
    return scores
