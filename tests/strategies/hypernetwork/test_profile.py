"""A profile says what is most telling first, and its embedding has length √width."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from fl_clients.lamp.user import Pair
from strategies.hypernetwork.profile import ProfileSettings, profile_embedding, profile_text


@dataclass
class Client:
    """Stands in for a client's tools."""

    task: str = "movie_tagging"
    history: list[Pair] = field(default_factory=list)
    embedded: list[str] = field(default_factory=list)

    def generate(self, prompts: list[str], _tokens: int) -> list[str]:
        assert "Tags that one person gave to movies" in prompts[0]
        return ["a twist"]

    def embed(self, texts: list[str], _embedder: str) -> torch.Tensor:
        self.embedded += texts
        return torch.tensor([[0.6, 0.8]])


def client(task: str = "movie_tagging") -> Any:
    return Client(task, [Pair("1", "A fight.", "action"), Pair("2", "A joke.", "comedy"), Pair("3", "War.", "action")])


def test_answers_come_first_each_as_often_as_it_was_given_then_the_summary_then_items() -> None:
    text = profile_text(client(), ProfileSettings("words", 1, "both", 8))
    assert text.splitlines() == [
        "The tags that this person uses most often are action, action, comedy.",
        "In a movie this person looks for a twist",
        "Tags that one person gave to movies:",
        "- War. Tag: action",
    ]


def test_a_profile_can_have_only_answers_or_only_items() -> None:
    answers, items = (profile_text(client(), ProfileSettings("words", 1, one, 0)) for one in ("answers", "items"))
    assert answers == "The tags that this person uses most often are action, action, comedy."
    assert items.splitlines() == ["Tags that one person gave to movies:", "- War. Tag: action"]


def test_tasks_whose_answers_are_texts_have_items_instead() -> None:
    text = profile_text(client("news_headline"), ProfileSettings("words", 2, "answers", 0))
    assert text.splitlines()[0] == "Articles by one journalist, with their headlines:"


def test_a_long_history_keeps_its_proportions_and_rare_answers_in_few_words() -> None:
    long: Any = Client(history=[Pair(str(n), "A film.", "comedy" if n % 4 else "action") for n in range(400)])
    long.history.append(Pair("400", "A duel.", "violence"))
    text = profile_text(long, ProfileSettings("words", 1, "answers", 0))
    assert [text.count(answer) for answer in ("comedy", "action", "violence")] == [24, 8, 1]


def test_the_embedding_is_as_long_as_the_root_of_its_width() -> None:
    found = profile_embedding(client(), ProfileSettings("words", 1, "both", 0), 2)
    assert float(found.norm()) == pytest.approx(2**0.5)


def test_a_user_without_history_has_zeros_and_nothing_is_embedded() -> None:
    without_history: Any = Client()
    assert not profile_embedding(without_history, ProfileSettings("words", 1, "both", 0), 5).any()
    assert without_history.embedded == []
