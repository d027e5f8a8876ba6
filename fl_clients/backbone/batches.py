"""From text pairs to padded batches of tokens, left-padded so that all answers end at the same position."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from transformers import PreTrainedTokenizerBase

from fl_clients.lamp.tasks import Task
from strategies.client_tools import Context, TextPair

IGNORED = -100
"""Label of a token that carries no loss."""
_NO_CONTEXT = Context()
_SHORTEST_PROMPT = 2
"""Tokens of a prompt below which an example is left out."""
_AFTER_ITEM = "\n\n"
"""Ends a profile and an item of a context."""
_SHORTEST_SOURCE = 8
"""Tokens of a source text below which an item says nothing and is left out."""


@dataclass(frozen=True)
class Example:
    """One example in tokens."""

    prompt: list[int]
    answer: list[int]
    """Ends with the end-of-text token."""
    cut: bool = False
    """Whether tokens of the prompt were cut to make it fit."""

    def __len__(self) -> int:
        """Return the length in tokens."""
        return len(self.prompt) + len(self.answer)


@dataclass(frozen=True)
class Batch:
    """Left-padded examples; every tensor is [batch, length] except `labels`."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    position_ids: torch.Tensor
    prompt: torch.Tensor
    """True on the prompt's tokens."""
    labels: torch.Tensor
    """[batch, a]: the last a tokens' labels, a = the longest answer; `IGNORED` where a row's answer is shorter."""


class Encoder:
    """Encodes one task's texts with one tokenizer."""

    def __init__(self, task: Task, tokenizer: PreTrainedTokenizerBase) -> None:
        """Tokenise the label set."""
        self._task = task
        self._tokenizer = tokenizer
        # If a model family was trained with a begin token, its tokenizer adds it; some of these models fail without it.
        self._begin = begin_tokens(tokenizer)
        self._label_answers: dict[str, list[int]] = {}
        self._label_answers = {label: self._answer(label) for label in task.labels}
        labels = [answer[:-1] for answer in self._label_answers.values()]
        shared = 0
        while labels and all(len(label) > shared + 1 and label[shared] == labels[0][shared] for label in labels):
            shared += 1
        # A tokenizer that splits off digits gives all ratings the same first token, a space. Such a common beginning
        # becomes part of the prompt, so that the answer is decided at a prompt position.
        self._head = labels[0][:shared] if labels else []
        self.labels = [label[shared:] for label in labels]
        """The label set in tokens, as they follow `prompt`; without the end token, as no label is another's prefix."""

    def examples(
        self, pairs: Sequence[TextPair], max_tokens: int, contexts: Sequence[Context] | None = None
    ) -> list[Example]:
        """Tokenise text pairs.

        If a prompt and its answer exceed `max_tokens`, the middle of the prompt is cut, where the source text is; the
        answer is never cut. A pair whose answer leaves no room for a prompt is left out.

        Args:
            pairs: The examples.
            max_tokens: Maximum length of one.
            contexts: What to put before each; None: nothing.
        """
        examples = []
        for pair, context in zip(pairs, contexts or [Context()] * len(pairs), strict=True):
            answer = self._answer(pair.target)
            # A text of a method's own may begin otherwise than the labels.
            answer = answer[len(self._head) :] if answer[: len(self._head)] == self._head else answer
            if len(answer) > max_tokens - _SHORTEST_PROMPT:
                continue
            prompt, cut = self.prompt(pair.source, max_tokens - len(answer), context)
            examples.append(Example(prompt, answer, cut))
        return examples

    def prompt(self, source: str, room: int, context: Context = _NO_CONTEXT) -> tuple[list[int], bool]:
        """Tokenise one prompt.

        Args:
            source: The question's text.
            room: Maximum length in tokens, at least 2.
            context: What to put before the question, as far as there is room.

        Returns:
            The tokens, and whether the question's middle was cut.
        """
        question = self._encode(self._task.prompt.format(source=source)) + self._head
        room = max(room - len(self._begin), _SHORTEST_PROMPT)
        if len(question) > room:
            return self._begin + _without_middle(question, room), True
        return self._begin + self._context(context, room - len(question)) + question, False

    def text(self, text: str, room: int) -> list[int]:
        """Tokenise any text into at most `room` tokens, without its middle if it is longer."""
        tokens = self._begin + self._encode(text)
        return tokens if len(tokens) <= room else _without_middle(tokens, room)

    def _context(self, context: Context, room: int) -> list[int]:
        """Tokenise a context into at most `room` tokens."""
        tokens: list[int] = []
        if context.profile:
            most = room // 2 if context.items else room
            ending = self._encode(_AFTER_ITEM)
            tokens = self._encode(context.profile)[: max(0, most - len(ending))] + ending
            tokens = tokens if len(tokens) <= most else []
        items = [self._item(item) for item in context.items]
        # The worst items are left out until the others fit.
        while items and len(tokens) + sum(item.least for item in items) > room:
            items.pop()
        for number, item in enumerate(items):
            # What an item leaves of its share is for those after it, whose least is kept free.
            free = room - len(tokens) - sum(later.least for later in items[number + 1 :])
            share = (room - len(tokens)) // (len(items) - number)
            tokens += item.within(min(max(share, item.least), free))
        return tokens

    def _item(self, item: TextPair) -> "_Item":
        """Tokenise an answered item."""
        whole = self._encode(f"{self._task.prompt.format(source=item.source)} {item.target.strip()}{_AFTER_ITEM}")
        before, _, after = self._task.prompt.partition("{source}")
        tail = self._encode(f"{after} {item.target.strip()}{_AFTER_ITEM}")
        return _Item(whole, self._encode(before), self._encode(item.source), tail)

    def _encode(self, text: str) -> list[int]:
        tokens: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return tokens

    def _answer(self, text: str) -> list[int]:
        """Tokenise an answer as it follows the prompt: a space, the text, the end token."""
        if known := self._label_answers.get(text):
            return known
        return [*self._encode(" " + text.strip()), int(self._tokenizer.eos_token_id)]


class _Item(NamedTuple):
    """An answered item in tokens."""

    whole: list[int]
    head: list[int]
    source: list[int]
    tail: list[int]

    @property
    def least(self) -> int:
        """The fewest tokens that it needs: with only the beginning of its source text."""
        return min(len(self.whole), len(self.head) + _SHORTEST_SOURCE + len(self.tail))

    def within(self, room: int) -> list[int]:
        """Return its tokens, without the end of its source text if there is no room."""
        if len(self.whole) <= room:
            return self.whole
        return self.head + self.source[: room - len(self.head) - len(self.tail)] + self.tail


def begin_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the begin token if the tokenizer puts one before texts, else nothing."""
    added: list[int] = tokenizer.encode("", add_special_tokens=True)
    return added[:1] if added and added[0] == tokenizer.bos_token_id else []


def _without_middle(tokens: list[int], room: int) -> list[int]:
    return tokens[: room - room // 2] + tokens[len(tokens) - room // 2 :]


def collate(examples: Sequence[Example], pad: int, device: torch.device) -> Batch:
    """Left-pad examples to the longest."""
    length = max(len(example) for example in examples)
    longest_answer = max(len(example.answer) for example in examples)
    ids = torch.full((len(examples), length), pad, dtype=torch.long)
    mask = torch.zeros(len(examples), length, dtype=torch.long)
    prompt = torch.zeros(len(examples), length, dtype=torch.bool)
    labels = torch.full((len(examples), longest_answer), IGNORED, dtype=torch.long)
    for row, example in enumerate(examples):
        start = length - len(example)
        ids[row, start:] = torch.tensor(example.prompt + example.answer)
        mask[row, start:] = 1
        prompt[row, start : start + len(example.prompt)] = True
        if example.answer:
            labels[row, -len(example.answer) :] = torch.tensor(example.answer)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    return Batch(*(tensor.to(device) for tensor in (ids, mask, positions, prompt, labels)))


def epoch_batches(examples: Sequence[Example], size: int, generator: torch.Generator) -> list[list[Example]]:
    """Group examples of similar length into batches, in an order drawn from `generator`.

    The examples are shuffled and split into stretches of eight batches, and every stretch is sorted by length. This
    needs little padding, and batches still differ between epochs.
    """
    order = torch.randperm(len(examples), generator=generator).tolist()
    batches: list[list[Example]] = []
    for start in range(0, len(order), 8 * size):
        stretch = sorted((examples[i] for i in order[start : start + 8 * size]), key=len)
        batches += [stretch[i : i + size] for i in range(0, len(stretch), size)]
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]
