"""Splits real users so that targets are unlike the rest: `python -m benchmarks.clusters FOLDER --task T --target N`.

Profile-to-PEFT's out-of-distribution split: users are clustered by what they write, and the clusters furthest from the
others, for their size, are held out whole. Prints TOML with `users.select = "listed"`.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from sklearn.cluster import KMeans
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import silhouette_score

from configs.errors import InputError
from fl_clients.lamp.readers import find_source
from fl_clients.lamp.tasks import find_task

_TRIED = range(4, 21)


def cluster(vectors: np.ndarray) -> np.ndarray:
    """Return each row's cluster; the number of clusters is the one with the best silhouette."""
    tried: dict[int, tuple[float, np.ndarray]] = {}
    for count in _TRIED:
        if count < len(vectors):
            labels = KMeans(count, n_init=4, random_state=0).fit_predict(vectors)
            tried[count] = (float(silhouette_score(vectors, labels)), labels)
    if not tried:
        raise InputError(f"{len(vectors)} users: expected more than {_TRIED[0]}, to cluster them")
    return max(tried.values(), key=lambda each: each[0])[1]


def held_out(vectors: np.ndarray, labels: np.ndarray, target: int) -> np.ndarray:
    """Return whether each row is in a cluster that is held out: the furthest for their size first, at most `target`."""
    ids = sorted(set(labels.tolist()))
    centres = np.stack([vectors[labels == one].mean(axis=0) for one in ids])
    apart = np.linalg.norm(centres[:, None] - centres[None], axis=2).sum(axis=1) / (len(ids) - 1)
    scores = {one: apart[place] / (1 + int((labels == one).sum())) for place, one in enumerate(ids)}
    chosen = np.zeros(len(labels), bool)
    for one in sorted(ids, key=lambda each: -scores[each]):
        if chosen.sum() + (labels == one).sum() <= target:
            chosen |= labels == one
    return chosen


def main() -> None:
    """Print the users of both sides as TOML."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="a folder of LaMP users")
    parser.add_argument("--task", required=True, help="their task")
    parser.add_argument("--target", type=int, required=True, help="maximum number of target users")
    given = parser.parse_args()
    users = [user for user in find_source(given.folder, find_task(given.task)).users() if user.history]
    texts = ["\n".join(f"{item.source} {item.target}" for item in user.history) for user in users]
    vectors = TfidfVectorizer(sublinear_tf=True, max_features=2000).fit_transform(texts).toarray()
    chosen = held_out(vectors, cluster(vectors), given.target)
    asked = [user.user_id for user, out in zip(users, chosen, strict=True) if out and user.queries]
    rest = [user.user_id for user, out in zip(users, chosen, strict=True) if not out]
    print(f'[users]\nselect = "listed"\ncollective = {len(rest)}\ntarget = {len(asked)}')
    print(f"collective_ids = {json.dumps(rest)}\ntarget_ids = {json.dumps(asked)}")


if __name__ == "__main__":
    main()
