"""The best that can be learned from a user's items: how users are drawn is known, the user's worths are not.

Nobody can learn a user's worths exactly from 32 items, so the oracle that knows them is no fair ceiling. The ideal
learner answers with the posterior of the worths given the items: no method can be expected to do better.
"""

from collections.abc import Sequence

import numpy as np

from configs.schema import RunConfig
from configs.seeds import derive_seed
from configs.users import SyntheticConfig
from fl_clients.lamp.synthetic.generate import GENERATORS, crowd
from fl_clients.lamp.synthetic.taste import Reader, Taste
from fl_clients.lamp.tasks import find_task
from fl_clients.lamp.user import Pair
from fl_clients.lamp.user_table import OpenedUser

_SAMPLES = 100
_SWEEPS_PER_ITEM = 2
"""The more items, the longer the sampler takes to forget where it began."""
_LEAST_NOISE = 1e-3
"""Keeps every taste possible, so that sampling can move, where there is no noise."""


def ideal_answers(config: RunConfig, user: OpenedUser) -> list[str] | None:
    """Answer a synthetic user's questions as well as the history allows; None for texts.

    Tastes are drawn from their posterior by a Gibbs sampler with Metropolis steps: one worth at a time is proposed from
    its prior and accepted by the ratio of likelihoods. The answer is the samples' most frequent label, or their median
    rating.

    Args:
        config: Tells how the users were drawn.
        user: The user as the run has it, with no more history than it trains on.
    """
    generator, labels = GENERATORS[config.task], find_task(config.task).labels
    if generator.reader is None:
        return None
    collective = crowd(generator, config.seed)
    draws = np.random.default_rng(derive_seed(config.seed, "ideal learner", user.user_id))
    taste = _posterior(generator.reader, labels, collective, config.users.synthetic, user.history, draws)
    answers = generator.reader.best(taste, generator.reader.read([query.source for query in user.queries]))
    if generator.metric == "mae":
        return [labels[int(index)] for index in np.median(answers, axis=0)]
    return [labels[np.bincount(column, minlength=len(labels)).argmax()] for column in answers.T]


def _posterior(
    reader: Reader,
    labels: Sequence[str],
    collective: Taste,
    settings: SyntheticConfig,
    history: Sequence[Pair],
    draws: np.random.Generator,
) -> Taste:
    """Return samples of the worths, each slot [samples, options]."""

    def prior(worths: np.ndarray) -> np.ndarray:
        return worths + settings.deviation * draws.standard_normal((_SAMPLES, *worths.shape))

    taste = {slot: prior(worths) for slot, worths in collective.items()}
    if not history:
        return taste
    read = reader.read([pair.source for pair in history])
    given = np.array([labels.index(pair.target) for pair in history])
    noise = max(settings.noise, _LEAST_NOISE)

    def log_likelihood(taste: Taste) -> np.ndarray:
        return np.asarray(np.log(reader.likelihood(given, reader.best(taste, read), noise) + 1e-300).sum(axis=1))

    current = log_likelihood(taste)
    for _ in range(_SWEEPS_PER_ITEM * len(history)):
        for slot, worths in collective.items():
            for option in range(len(worths)):
                proposed = taste[slot].copy()
                proposed[:, option] = prior(worths)[:, option]
                changed = log_likelihood(taste | {slot: proposed})
                accepted = np.log(draws.random(_SAMPLES)) < changed - current
                taste[slot] = np.where(accepted[:, None], proposed, taste[slot])
                current = np.where(accepted, changed, current)
    return taste
