"""What a client hands a method: contexts within their room, hidden states, preferences."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fl_clients.backbone.batches import Encoder, Example
from fl_clients.backbone.embedder import mean_embeddings
from fl_clients.backbone.forward import Forward
from fl_clients.backbone.load import Backbone
from fl_clients.backbone.states import end_states
from fl_clients.lamp.tasks import TASKS
from fl_clients.lamp.user import Pair
from fl_clients.preferences import answer_log_probabilities, preference_loss, with_reference
from fl_clients.prompts import training_examples
from fl_clients.session import Session
from fl_clients.tools import Tools
from simulations.run.simulate import simulate
from strategies.blocks import find_blocks, find_mlp
from strategies.client_tools import Context, Preference
from strategies.steering.added_vector import AddedVector
from tests.conftest import tiny_config

TASK = TASKS["movie_tagging"]
LONG = Pair("1", "x" * 300, "comedy")
SHORT = Pair("2", "A war in space.", "sci-fi")


@pytest.fixture
def encoder(tiny: Backbone) -> Encoder:
    return Encoder(TASK, tiny.tokenizer)


def text_of(tiny: Backbone, tokens: Sequence[int]) -> str:
    return str(tiny.tokenizer.decode(tokens))


def test_a_context_precedes_the_question(encoder: Encoder, tiny: Backbone) -> None:
    tokens, cut = encoder.prompt("A heist.", 500, Context("Likes space.", [SHORT]))
    assert not cut
    assert text_of(tiny, tokens) == ("Likes space.\n\nMovie: A war in space.\nTag: sci-fi\n\nMovie: A heist.\nTag: ")


@pytest.mark.parametrize("room", range(20, 200, 7))
def test_the_question_is_never_cut_for_a_context(encoder: Encoder, tiny: Backbone, room: int) -> None:
    alone, cut = encoder.prompt("A heist.", room)
    for context in (Context("p" * 500), Context("p" * 500, [LONG, SHORT]), Context("", [LONG, SHORT, LONG])):
        tokens, cut_too = encoder.prompt("A heist.", room, context)
        assert len(tokens) <= room
        assert tokens[-len(alone) :] == alone
        assert cut_too == cut


@pytest.mark.parametrize("room", range(40, 400, 3))
def test_the_best_items_stay_if_there_is_no_room_for_all(encoder: Encoder, tiny: Backbone, room: int) -> None:
    lengths = (300, 3, 90, 8, 40)
    items = [Pair(str(number), chr(ord("A") + number) * length, "sci-fi") for number, length in enumerate(lengths)]
    tokens, _ = encoder.prompt("?", room, Context("", items))
    assert len(tokens) <= room
    text = text_of(tiny, tokens)
    shown = [pair for pair in items if f"Movie: {pair.source[:3]}" in text]
    assert shown == items[: len(shown)]
    # A next one with the least of its text would not fit beside the least of those before it.
    least = [len("Movie: \nTag: sci-fi\n\n") + min(length, 8) for length in lengths]
    left = room - len(encoder.prompt("?", room)[0])
    assert len(shown) == max(count for count in range(6) if sum(least[:count]) <= left)


def test_an_answer_that_begins_otherwise_than_the_labels_keeps_its_first_word(tiny: Backbone) -> None:
    encoder = Encoder(TASKS["product_rating"], tiny.tokenizer)
    encoder._head = [7]  # as of a tokenizer that splits a space off a digit
    (example,) = encoder.examples([Pair("1", "x", "Great product")], 100)
    assert text_of(tiny, example.answer[:-1]) == " Great product"


def test_items_share_the_room_and_lose_the_end_of_their_texts_only(encoder: Encoder, tiny: Backbone) -> None:
    question = "Movie: A heist.\nTag: "  # one token a letter; with the space that all labels begin with
    short = "Movie: A war in space.\nTag: sci-fi\n\n"
    tokens, _ = encoder.prompt("A heist.", len(question) + 110, Context("", [SHORT, LONG]))
    # The short item leaves what it does not need of its half to the long one.
    left = 110 - len(short) - len("Movie: ") - len("\nTag: comedy\n\n")
    assert text_of(tiny, tokens) == f"{short}Movie: {'x' * left}\nTag: comedy\n\n{question}"


def test_an_item_without_room_is_left_out(encoder: Encoder, tiny: Backbone) -> None:
    tokens, _ = encoder.prompt("A heist.", 40, Context("", [LONG]))
    assert text_of(tiny, tokens) == "Movie: A heist.\nTag: "


def test_a_profile_has_half_of_the_room_beside_items(encoder: Encoder, tiny: Backbone) -> None:
    tokens, _ = encoder.prompt("A heist.", 21 + 100, Context("p" * 300, [LONG]))
    text = text_of(tiny, tokens)
    assert text.startswith("p" * 48 + "\n\nMovie: x")
    assert len(tokens) == 121


def test_examples_retrieve_from_earlier_items_only(tiny: Backbone, tmp_path: Path) -> None:
    simulate(tiny_config("history.retrieve=2"), "run", tmp_path)
    session = Session(tmp_path / "run")
    pairs = [Pair(str(place), f"space {word}", "sci-fi") for place, word in enumerate(("one", "two", "three"))]
    examples = training_examples(session, pairs, session.config.local)
    prompts = [text_of(tiny, example.prompt) for example in examples]
    assert [[word in prompt for word in ("one", "two", "three")] for prompt in prompts] == [
        [True, False, False],
        [True, True, False],
        [True, True, True],
    ]
    assert prompts[2].count("Movie:") == 3
    assert prompts[0].count("Movie:") == 1


def test_an_item_whose_answer_is_too_long_is_left_out(encoder: Encoder) -> None:
    # The answer "sci-fi" and its end are 7 tokens; its leading space belongs to the prompt.
    assert [len(example) for example in encoder.examples([SHORT], 9)] == [9]
    assert encoder.examples([SHORT], 8) == []


@torch.no_grad()
def test_states_are_the_models_own(tiny: Backbone) -> None:
    examples = [Example([5, 6, 7], [0]), Example([9, 10, 11, 12, 13], [0])]
    found = end_states(Forward(tiny, None), examples, "block")
    for row, example in enumerate(examples):
        ids = torch.tensor([example.prompt + example.answer])
        states = tiny.model(input_ids=ids, output_hidden_states=True).hidden_states
        # The last of these has passed the final norm.
        expected = torch.stack([state[0, -1] for state in states[1:-1]])
        assert torch.allclose(found[row, :-1], expected, atol=1e-5)


@torch.no_grad()
def test_states_of_an_mlp_are_what_it_adds_to_the_stream(tiny: Backbone) -> None:
    example = Example([5, 6, 7], [0])
    found = end_states(Forward(tiny, None), [example], "mlp")
    seen: list[torch.Tensor] = []
    network = find_mlp(find_blocks(tiny.model)[2])
    handle = network.register_forward_hook(lambda _module, _args, output: seen.append(output))
    tiny.model(input_ids=torch.tensor([[5, 6, 7, 0]]))
    handle.remove()
    assert torch.allclose(found[0, 2], seen[0][0, -1], atol=1e-6)


def test_embeddings_have_length_1_and_do_not_depend_on_the_batch(tiny: Backbone) -> None:
    texts = ["a war", "!", "a much longer text about a heist in paris"]
    together = mean_embeddings(tiny, "backbone", texts, 8, 512)
    alone = torch.cat([mean_embeddings(tiny, "backbone", [text], 1, 512) for text in texts])
    assert together.shape == (3, 16)
    assert torch.allclose(together.norm(dim=1), torch.ones(3), atol=1e-5)
    assert torch.allclose(together, alone, atol=1e-5)


def test_a_text_is_cut_to_any_room(encoder: Encoder) -> None:
    whole = encoder.text("abcdefgh", 8)
    assert [encoder.text("abcdefgh", room) for room in (3, 1, 0)] == [whole[:2] + whole[-1:], whole[:1], []]


def test_a_preference_with_an_answer_that_is_too_long_is_left_out(tmp_path: Path) -> None:
    simulate(tiny_config("method=dpo", "settings.answer_tokens=4", "settings.items=2"), "run", tmp_path)
    session = Session(tmp_path / "run")
    short, long = "comedy", "x" * session.config.personal.max_tokens
    tools = Tools(session, [], 0, lambda: 0)
    preferences = [Preference(*one) for one in (("a", short, long), ("b", long, short), ("c", short, "war"))]
    (kept,) = tools.prefer(preferences, 0.1, 0.0).examples
    ending = "c\nTag:"
    assert ending in session.backbone.tokenizer.decode(kept.better.prompt)
    assert tools.prefer(preferences[:2], 0.1, 0.0)([]).steps == 0
    assert tools.fit_on([Pair("", "a", long)], 0.0)([]).steps == 0


class TestPreferences:
    """DPO's loss against the formula in NumPy, float64."""

    better, worse = [Example([5, 6, 7], [8, 0])], [Example([5, 6, 7], [9, 10, 0])]

    @staticmethod
    def log_probability(model: nn.Module, example: Example) -> float:
        logits = model(input_ids=torch.tensor([example.prompt + example.answer])).logits[0].double().numpy()
        total = 0.0
        for place, token in enumerate(example.answer):
            row = logits[len(example.prompt) - 1 + place]
            total += row[token] - np.log(np.exp(row).sum())
        return total

    @torch.no_grad()
    def test_log_probabilities_are_sums_over_answer_tokens(self, tiny: Backbone) -> None:
        found = answer_log_probabilities(Forward(tiny, None), None, self.better + self.worse)
        expected = [self.log_probability(tiny.model, example) for example in self.better + self.worse]
        assert found.tolist() == pytest.approx(expected, abs=1e-5)

    @torch.no_grad()
    def test_loss_equals_the_formula(self, tiny: Backbone) -> None:
        forward = Forward(tiny, None)
        preferences = with_reference(forward, [(*self.better, *self.worse)])
        adapter = AddedVector(tiny.model, 2, 16)
        # Nothing has changed yet, so every preference is worth ln 2.
        assert preference_loss(forward, adapter, preferences, 0.3).item() == pytest.approx(np.log(2), abs=1e-6)
        adapter.v.copy_(torch.linspace(-1, 1, 16))
        ours = answer_log_probabilities(forward, adapter, self.better + self.worse).double().numpy()
        theirs = [self.log_probability(tiny.model, example) for example in self.better + self.worse]
        margin = 0.3 * ((ours[0] - theirs[0]) - (ours[1] - theirs[1]))
        expected = -np.log(1 / (1 + np.exp(-margin)))
        assert preference_loss(forward, adapter, preferences, 0.3).item() == pytest.approx(expected, abs=1e-5)
