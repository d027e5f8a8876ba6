"""What a person should know about the data of a run's users: what was joined, left out or cannot be read."""

from dataclasses import dataclass
from typing import Literal

from fl_clients.lamp.tasks import Task
from fl_clients.lamp.user import User
from strategies.metrics.words import is_seen

Words = Literal["latin", "unicode"]


@dataclass
class DataNotes:
    """Counts over the selected users."""

    joined: int = 0
    """Questions that are their users' because of the profiles (see `find_people`)."""
    people: int = 0
    """The users of these questions."""
    shared: int = 0
    """Examples of collective users that hold a target user's question or gold."""
    without_history: int = 0
    """Target users without a history item."""
    unread_dates: int = 0
    """Users whose dates cannot all be read."""
    unseen: int = 0
    """Golds of target users that ROUGE does not see."""

    def add(self, user: User, task: Task, target: bool, words: Words) -> None:
        """Count one selected user.

        Args:
            user: The user.
            task: The user's task.
            target: Whether the user is evaluated.
            words: What ROUGE counts (`evaluate.words`).
        """
        self.joined += user.joined
        self.people += user.joined > 0
        self.without_history += target and not user.history
        self.unread_dates += user.unread_dates
        if target and task.kind == "texts":
            self.unseen += sum(not is_seen(query.target, words) for query in user.queries)

    def sentences(self, words: Words) -> tuple[str, ...]:
        """Return one sentence for each count above 0; `words` is what ROUGE counts."""
        remedy = "; set evaluate.words=unicode" if words == "latin" else ""
        counted = (
            (self.joined, f"{self.joined} questions belong to {self.people} users, by their profiles"),
            (
                self.shared,
                f"{self.shared} examples of collective users are left out: they hold a target's question or gold",
            ),
            (
                self.without_history,
                f"{self.without_history} target users have no history item: stage 2 leaves their answers as they are",
            ),
            (
                self.unread_dates,
                f"{self.unread_dates} users' dates cannot all be read: their histories keep the file's order",
            ),
            (
                self.unseen,
                f"{self.unseen} golds have no words, or hardly any, that ROUGE sees with evaluate.words={words}: even "
                f"the right answer may score 0{remedy}",
            ),
        )
        return tuple(text for count, text in counted if count)
