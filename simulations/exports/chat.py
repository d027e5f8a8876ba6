"""`fedperfit chat`: answers a text with the bare backbone, the collective model and a user's personalised model."""

from collections.abc import Sequence
from dataclasses import replace

from configs.errors import InputError
from fl_clients.backbone.batches import Encoder
from fl_clients.backbone.forward import Forward
from fl_clients.lamp.tasks import find_task
from fl_clients.lamp.user_table import open_user
from fl_clients.predict import generate, score_labels, stop_tokens
from fl_server.record.folder import RunFolder
from simulations.run.rebuild_users import rebuild_users
from simulations.run.served import ServedModel
from strategies.client_tools import Context, TextPair
from strategies.method import Adapter, Method
from strategies.prompting.retrieval import best_matches


class Chat:
    """Answers texts with a served model."""

    def __init__(self, served: ServedModel) -> None:
        """Prepare the model for answering."""
        self._served, self._texts = served, _Texts(served)
        self._task = find_task(served.record.task)
        self._encoder = Encoder(self._task, served.backbone.tokenizer)
        self._forward = Forward(served.backbone, None)
        self._stop = stop_tokens(served.backbone.tokenizer)

    def answer(self, source: str) -> dict[str, str]:
        """Return the answers by evaluation point: `base`, `collective` and, if there is a user, `personalised`.

        If the run scored a task's labels, the answer is the most likely label; otherwise decoding is greedy.

        Args:
            source: The text to insert into the task's prompt, for instance a movie's description.

        Raises:
            InputError: The text is empty, or not UTF-8.
        """
        if not source.strip():
            raise InputError("expected a text to answer")
        if any("\ud800" <= letter <= "\udfff" for letter in source):
            raise InputError(f"{source!r}: expected text in UTF-8")
        served = self._served
        labels = self._encoder.labels if served.config.decoding == "deterministic" else []
        longest = max(map(len, labels), default=self._task.max_new_tokens)

        def answer_with(adapter: Adapter | None, context: Context) -> str:
            prompt, _ = self._encoder.prompt(source, served.config.personal.max_tokens - longest, context)
            if labels:
                return self._task.labels[int(score_labels(self._forward, adapter, [prompt], labels).argmax())]
            return generate(self._forward, adapter, [prompt], longest, self._stop, None)[0]

        answers = {"base": answer_with(None, Context())}
        retrieved = Context(items=best_matches(self._texts.history, source, served.config.history.retrieve))
        served.personalise(False)
        answers["collective"] = answer_with(served.adapter, retrieved)
        if served.partition is not None:
            served.personalise(True)
            own = (
                served.method.client_context(served.adapter, self._texts, source) if self._texts.history else Context()
            )
            answers["personalised"] = answer_with(
                served.adapter, own if own.items else replace(own, items=retrieved.items)
            )
        return answers


class _Texts:
    """The texts of the user who is served."""

    def __init__(self, served: ServedModel) -> None:
        self.task = served.record.task
        self.history: Sequence[TextPair] = ()
        reads = type(served.method).client_context is not Method.client_context or served.config.history.retrieve
        if served.partition is not None and reads:
            self.history = open_user(rebuild_users(RunFolder(served.folder)).folder, served.partition).history
