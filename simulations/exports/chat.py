"""`fedperfit chat`: one text, answered by the bare backbone, with the collective shift, and as one user is served."""

from configs.errors import InputError
from fl_clients.backbone.batches import Encoder
from fl_clients.backbone.forward import Forward
from fl_clients.lamp.tasks import find_task
from fl_clients.predict import generate, score_labels, stop_tokens
from simulations.exports.served import ServedModel
from strategies.method import Adapter


class Chat:
    """A served model that answers."""

    def __init__(self, served: ServedModel) -> None:
        """Take the model."""
        self._served = served
        self._task = find_task(served.record.task)
        self._encoder = Encoder(self._task, served.backbone.tokenizer)
        self._forward = Forward(served.backbone, None)
        self._stop = stop_tokens(served.backbone.tokenizer)

    def answer(self, source: str) -> dict[str, str]:
        """Return the answers by stage: `base`, `collective`, and `personalised` where there is a user.

        A task's labels are chosen by their likelihood, as the run's own questions were answered; else decoding is
        greedy.

        Args:
            source: What the task's prompt is about, for instance a movie's description.

        Raises:
            InputError: It is empty.
        """
        if not source.strip():
            raise InputError("expected a text to answer")
        served = self._served
        labels = self._encoder.labels if served.config.decoding == "deterministic" else []
        longest = max(map(len, labels), default=self._task.max_new_tokens)
        prompt, _ = self._encoder.prompt(source, served.config.personal.max_tokens - longest)

        def said(adapter: Adapter | None) -> str:
            if labels:
                return self._task.labels[int(score_labels(self._forward, adapter, [prompt], labels).argmax())]
            return generate(self._forward, adapter, [prompt], longest, self._stop, None)[0]

        answers = {"base": said(None)}
        served.personalise(False)
        answers["collective"] = said(served.adapter)
        if served.partition is not None:
            served.personalise(True)
            answers["personalised"] = said(served.adapter)
        return answers
