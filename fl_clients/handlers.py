"""How a client handles one message, independent of Flower.

Only the backbone and the adapter, which all clients of a process share, the client's private store, and what is kept
for its next task (`Notes`, the index of its history) outlive a task.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from configs.files import write_atomic
from configs.seeds import derive_seed
from configs.training import FitConfig
from fl_clients.coding import LEFT_OUT, REFERENCE
from fl_clients.evaluate import answer_questions, score_answers, score_baselines
from fl_clients.fit import MOMENTS, LocalFit
from fl_clients.lamp.user_table import OpenedUser, open_user
from fl_clients.local_privacy import noise_secret
from fl_clients.private_store import read_client_state, write_client_state, write_private
from fl_clients.process.paths import ClientPaths
from fl_clients.prompts import count_cut_questions, training_examples
from fl_clients.secure import SecureClient
from fl_clients.sending import outgoing
from fl_clients.session import Session, open_session
from fl_clients.tools import Tools
from fl_clients.turn import Turn
from strategies.client_tools import TextPair
from strategies.method import FitResult, TrainRequest
from strategies.metrics.points import EvaluationPoint
from strategies.metrics.statistics import Statistics
from strategies.wire import ClientReport, Payload, RollCallAnswer


@dataclass(frozen=True)
class Reply:
    """A client's reply."""

    payload: Payload | None
    report: ClientReport | RollCallAnswer
    statistics: Statistics
    """Sums by evaluation point and name, such as `base.confusion`."""
    secure: Mapping[int, bytes] = field(default_factory=dict)
    """Keys or shares by user, for secure aggregation."""


def roll_call(paths: ClientPaths, versions: str | None = None) -> Reply:
    """Return which user this client holds, with how many history items and questions.

    Args:
        paths: The client's files.
        versions: A real device's package versions, as JSON.
    """
    user = open_user(paths.data_dir, paths.partition)
    answer = RollCallAnswer(
        partition=paths.partition, history=len(user.history), queries=len(user.queries), versions=versions
    )
    return Reply(None, answer, {})


def train(paths: ClientPaths, payload: Payload, turn: Turn) -> Reply:
    """Stage 1: train on the user's history and answered questions; return the tensors to send.

    Args:
        paths: The client's files.
        payload: The tensors that the server sent.
        turn: What else it said.
    """
    round_number, last_turn = turn.round, turn.last_turn
    session = open_session(paths.run_dir)
    started = _start(session)
    user = open_user(paths.data_dir, paths.partition)
    config = session.config
    opening = round_number == 0
    settings = config.personal if opening else config.local
    span = (0.0, 1.0) if opening else ((round_number - 1) / config.rounds, round_number / config.rounds)
    seed = derive_seed(config.seed, "train", round_number, user.user_id)
    store = read_client_state(paths.private_dir, paths.partition, round_number, last_turn)
    shared, held = session.coding.receive(payload, store)
    # In an opening other tensors are trained, with stage 2's settings.
    keeps_moments = settings.keep_moments and not opening
    moments = {name: value for name, value in store.items() if keeps_moments and name.startswith(MOMENTS)}
    before = {name: v for name, v in store.items() if not name.startswith((MOMENTS, REFERENCE, LEFT_OUT))}
    pairs = user.history + user.queries
    if not pairs:
        raise ValueError("this user has no examples to train on")
    local_fit = _local_fit(session, paths, user, pairs, settings, seed, span=span, moments=moments)
    request = TrainRequest(round_number, {} if opening else shared, before, local_fit)
    result = session.method.client_train(session.adapter, request)
    sent = outgoing(session, paths, turn, result.shared, shared, store, (user.user_id, result.fit.examples))
    engine_state = (local_fit.moments if keeps_moments else {}) | held | sent.owed
    if result.client_state is not None or engine_state:
        after = (before if result.client_state is None else result.client_state) | engine_state
        write_client_state(paths.private_dir, paths.partition, round_number, last_turn, after)
    fit = result.fit
    if config.secure.aggregation:
        fit = replace(fit, figures={**fit.figures, "secure.cut": float(sent.cut)})
    report = ClientReport(**_fit_values(fit, local_fit), **_finish(session, started))
    return Reply(sent.payload, report, {})


def secure_keys(paths: ClientPaths, round_number: int) -> Reply:
    """Secure aggregation: draw this client's keys for a round and return the public ones."""
    return _secure(paths, round_number, lambda client: client.advertise())


def secure_shares(paths: ClientPaths, round_number: int, keys: Mapping[int, bytes]) -> Reply:
    """Secure aggregation: return shares of this client's secrets, encrypted for the owners of `keys`."""
    return _secure(paths, round_number, lambda client: client.share(keys))


def secure_unmask(paths: ClientPaths, round_number: int, alive: Sequence[int], dropped: Sequence[int]) -> Reply:
    """Secure aggregation: return the shares that take the masks off the sum of the users who are `alive`."""
    return _secure(paths, round_number, lambda client: client.reveal(alive, dropped))


def _secure(paths: ClientPaths, round_number: int, step: Callable[[SecureClient], dict[int, bytes]]) -> Reply:
    session = open_session(paths.run_dir)
    started = _start(session)
    answers = step(SecureClient(paths, session.config.secure, round_number))
    report = ClientReport(examples=0, steps=0, **_finish(session, started))
    return Reply(None, report, {}, answers)


def introduce(paths: ClientPaths) -> Reply:
    """A target user's part in the opening, on its history alone: its questions are not to be known before."""
    session = open_session(paths.run_dir)
    started = _start(session)
    user = open_user(paths.data_dir, paths.partition)
    seed = derive_seed(session.config.seed, "introduce", user.user_id)
    local_fit = _local_fit(session, paths, user, user.history, session.config.personal, seed)
    result = session.method.client_train(session.adapter, TrainRequest(0, {}, {}, local_fit))
    values = _fit_values(result.fit, local_fit) | ({} if user.history else {"status": "no_history"})
    report = ClientReport(**values, **_finish(session, started))
    return Reply(Payload(result.shared), report, {})


def personalize_once(paths: ClientPaths, payload: Payload) -> Reply:
    """Stage 2, done once: if a resumed run sends the task again, the client returns its first reply."""
    path = paths.run_dir / ".personalised" / f"{paths.partition}.json"
    if path.is_file():
        stored = json.loads(path.read_text(encoding="utf-8"))
        return Reply(None, ClientReport.from_record(stored["report"]), stored["statistics"])
    reply = personalize(paths, payload, persist=True)
    path.parent.mkdir(exist_ok=True)
    write_atomic(path, json.dumps({"report": reply.report.to_record(), "statistics": reply.statistics}))
    return reply


def personalize(paths: ClientPaths, payload: Payload, persist: bool) -> Reply:
    """Stage 2: evaluate the collective shift, train the private tensors, evaluate again.

    A user without history cannot be personalised and keeps the collective shift; so do all users of a method that has
    no personal part.

    Args:
        paths: The client's files.
        payload: What the server sent.
        persist: Keep the private tensors and the predictions; False for a midway evaluation, which keeps nothing.
    """
    session = open_session(paths.run_dir)
    started = _start(session)
    user = open_user(paths.data_dir, paths.partition)
    predictions_dir = paths.predictions_dir if persist else None
    shared, _ = session.coding.receive(payload, {})
    session.method.client_load(session.adapter, shared, None)
    answers = answer_questions(session, user, EvaluationPoint.COLLECTIVE)
    statistics = score_answers(session, predictions_dir, paths.partition, user, answers, EvaluationPoint.COLLECTIVE)
    values: dict[str, Any] = {"status": "ok" if user.history else "no_history", "examples": 0, "steps": 0}
    if user.history:
        seed = derive_seed(session.config.seed, "personalize", user.user_id)
        local_fit = _local_fit(session, paths, user, user.history, session.config.personal, seed)
        personal = session.method.client_personalize(session.adapter, shared, local_fit)
        if personal is not None:
            private, result = personal
            if persist:
                write_private(paths.private_dir, paths.partition, private)
            session.method.client_load(session.adapter, shared, private)
            answers = answer_questions(session, user, EvaluationPoint.PERSONALISED, local_fit.client)
            values = _fit_values(result, local_fit)
    statistics |= score_answers(session, predictions_dir, paths.partition, user, answers, EvaluationPoint.PERSONALISED)
    cut = count_cut_questions(session, user)
    return Reply(None, ClientReport(**values, questions_cut=cut, **_finish(session, started)), statistics)


def evaluate(paths: ClientPaths, payload: Payload, point: EvaluationPoint) -> Reply:
    """Evaluate the bare backbone (`point` base) or the shared tensors (collective) on the user's questions."""
    session = open_session(paths.run_dir)
    started = _start(session)
    user = open_user(paths.data_dir, paths.partition)
    base = point == EvaluationPoint.BASE
    if not base:
        shared, _ = session.coding.receive(payload, {})
        session.method.client_load(session.adapter, shared, None)
    answers = answer_questions(session, user, point)
    judge = paths.partition < session.config.users.collective  # a collective user, held out
    predictions_dir = paths.predictions_dir if base and not judge else None
    statistics = score_answers(session, predictions_dir, paths.partition, user, answers, point)
    if base:
        statistics |= score_baselines(session, user)
    cut = count_cut_questions(session, user)
    report = ClientReport(examples=len(user.queries), steps=0, questions_cut=cut, **_finish(session, started))
    return Reply(None, report, statistics)


def _local_fit(
    session: Session,
    paths: ClientPaths,
    user: OpenedUser,
    pairs: Sequence[TextPair],
    settings: FitConfig,
    seed: int,
    **more: Any,
) -> LocalFit:
    examples = training_examples(session, pairs, settings)
    tools = Tools(session, pairs, seed, partial(noise_secret, paths, session.config.seed, 0, user.user_id))
    forward, gradient = session.forward, session.gradient
    return LocalFit(forward, session.adapter, examples, settings, seed, tools=tools, gradient=gradient, **more)


def _start(session: Session) -> float:
    session.partition.reset_peak()
    return session.clock()


def _finish(session: Session, started: float) -> dict[str, Any]:
    return {
        "wall_s": session.clock() - started,
        "ended_at": time.time(),
        "partition_name": session.partition.name,
        "peak_memory_bytes": session.partition.peak_memory(),
    }


def _fit_values(result: FitResult, local_fit: LocalFit) -> dict[str, Any]:
    return {
        "examples": result.examples,
        "examples_cut": sum(example.cut for example in local_fit.examples),
        "steps": result.steps,
        "loss_first": result.loss_first,
        "loss_last": result.loss_last,
        "figure_names": list(result.figures) or None,
        "figure_values": list(result.figures.values()) or None,
    }
