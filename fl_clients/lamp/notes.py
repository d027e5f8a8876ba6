"""What a person should know about the data of a run's users: what was joined, left out or cannot be read."""

from dataclasses import dataclass
from typing import Literal

from fl_clients.lamp.tasks import Task
from fl_clients.lamp.user import User
from strategies.metrics.words import is_latin


@dataclass
class DataNotes:
    """Counts over the selected users."""

    joined: int = 0
    """Questions that are their users' because of the profiles (see `find_people`)."""
    people: int = 0
    """The users of these questions."""
    shared: int = 0
    """Examples of collective users that hold a target user's question or gold."""
    unread_dates: int = 0
    """Users whose dates cannot all be read."""
    other_scripts: int = 0
    """Golds of target users that LaMP's ROUGE does not see."""

    def add(self, user: User, task: Task, target: bool) -> None:
        """Count one selected user; `target` users are evaluated."""
        self.joined += user.joined
        self.people += user.joined > 0
        self.unread_dates += user.unread_dates
        if target and task.kind == "texts":
            self.other_scripts += sum(not is_latin(query.target) for query in user.queries)

    def sentences(self, words: Literal["latin", "unicode"]) -> tuple[str, ...]:
        """Return one sentence for each count above 0; `words` is what ROUGE counts (`evaluate.words`)."""
        found = (
            (self.joined, f"{self.joined} questions belong to {self.people} users, by their profiles"),
            (
                self.shared,
                f"{self.shared} examples of collective users are left out: they hold a target's question or gold",
            ),
            (
                self.unread_dates,
                f"{self.unread_dates} users' dates cannot all be read: their histories keep the file's order",
            ),
            (
                self.other_scripts if words == "latin" else 0,
                f"{self.other_scripts} golds are in scripts that LaMP's ROUGE does not see: even the right answer may "
                "score 0; set evaluate.words=unicode",
            ),
        )
        return tuple(text for count, text in found if count)
