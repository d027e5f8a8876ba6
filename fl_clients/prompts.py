"""The prompts of a user's questions and examples, with what a method or `history.retrieve` puts before them."""

from collections.abc import Sequence
from dataclasses import replace

from configs.training import FitConfig
from fl_clients.backbone.batches import Example
from fl_clients.lamp.user_table import OpenedUser
from fl_clients.session import Session
from strategies.client_tools import Context, TextPair, UserTexts
from strategies.metrics.points import EvaluationPoint
from strategies.prompting.retrieval import best_matches


def training_examples(session: Session, pairs: Sequence[TextPair], settings: FitConfig) -> list[Example]:
    """Tokenise a user's examples; what is retrieved for one comes from those before it, so never from itself.

    Raises:
        ValueError: There are pairs, but none whose answer is short enough.
    """
    k = session.config.history.retrieve
    contexts = None
    if k:
        contexts = [Context(items=best_matches(pairs[:place], pair.source, k)) for place, pair in enumerate(pairs)]
    examples = session.encoder.examples(pairs, settings.max_tokens, contexts)
    if pairs and not examples:
        raise ValueError(f"every answer of this user is longer than max_tokens={settings.max_tokens}")
    return examples


def prompts_at(
    session: Session, user: OpenedUser, point: EvaluationPoint, client: UserTexts | None
) -> list[tuple[list[int], bool]]:
    """Return each question's prompt at an evaluation point, and whether the question was cut.

    There is room for the longest answer, as in training. The bare backbone gets the bare question.
    """
    room = question_room(session)
    contexts = _contexts(session, user, point, client)
    return [
        session.encoder.prompt(query.source, room, context)
        for query, context in zip(user.queries, contexts, strict=True)
    ]


def question_room(session: Session) -> int:
    """Return the tokens that a question's prompt may have, so that the longest answer fits too."""
    longest = max(map(len, session.encoder.labels), default=session.task.max_new_tokens)
    return session.config.personal.max_tokens - longest


def _contexts(session: Session, user: OpenedUser, point: EvaluationPoint, client: UserTexts | None) -> list[Context]:
    """Return what precedes each of a user's questions: items that `history.retrieve` asks for, or the method's own."""
    retrieved = session.config.history.retrieve if point != EvaluationPoint.BASE else 0
    contexts = []
    for query in user.queries:
        context = Context()
        if client is not None and point == EvaluationPoint.PERSONALISED:
            context = session.method.client_context(session.adapter, client, query.source)
        if not context.items:
            context = replace(context, items=best_matches(user.history, query.source, retrieved))
        contexts.append(context)
    return contexts


def count_cut_questions(session: Session, user: OpenedUser) -> int:
    """Count the questions that are themselves cut to fit."""
    return sum(cut for _, cut in prompts_at(session, user, EvaluationPoint.BASE, None))
