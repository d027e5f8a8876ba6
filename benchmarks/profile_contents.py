"""What of synthetic users' taste a linear map can read from their profiles: `python -m benchmarks.profile_contents`.

For each embedder and each content of a profile: the components that Profile-to-PEFT's server takes (`whitening`), a
ridge regression from them to the planted personal worths, fitted on the collective users, and its R² on others: 0 for
the mean, 1 for who knows the taste. What no linear map can read, Ψ can hardly write into an adapter.
"""

import argparse
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import torch

from configs.load import load_config
from configs.schema import RunConfig
from fl_clients.backbone.embedder import mean_embeddings
from fl_clients.backbone.load import load
from fl_clients.lamp.select_users import build_table
from fl_clients.lamp.synthetic.generate import GENERATORS, crowd, planted_taste
from fl_clients.lamp.user import Pair
from fl_clients.lamp.user_table import open_user
from strategies.hypernetwork.profile import ProfileSettings, profile_text
from strategies.hypernetwork.server_profiles import whitening

Contents = Literal["answers", "items", "both"]
_OTHERS = 100
_PENALTIES = (0.01, 0.1, 1.0, 10.0, 100.0)


@dataclass
class Texts:
    """Stands in for a client's tools: profiles here need texts only."""

    task: str
    history: list[Pair] = field(default_factory=list)


def personal_worths(config: RunConfig, users: list[str]) -> torch.Tensor:
    """Return how users' worths differ from the collective ones, [users, options]."""
    collective = crowd(GENERATORS[config.task], config.seed)
    rows = []
    for user in users:
        taste = planted_taste(config.task, config.users.synthetic.deviation, config.seed, user)
        rows.append(np.concatenate([taste[slot] - collective[slot] for slot in collective]))
    return torch.tensor(np.array(rows))


def readable(profiles: torch.Tensor, worths: torch.Tensor, fitted: int, components: int) -> float:
    """Return R² on the users after the first `fitted`, for the best of a few penalties.

    Args:
        profiles: [users, width].
        worths: [users, options].
        fitted: Users of the regression.
        components: Of `whitening`.
    """
    apart = profiles - profiles[:fitted].mean(dim=0)
    z = (apart @ whitening(apart[:fitted], components).T).double()
    best = -np.inf
    for penalty in _PENALTIES:
        gram = z[:fitted].T @ z[:fitted] + penalty * torch.eye(components, dtype=torch.float64)
        weights = torch.linalg.solve(gram, z[:fitted].T @ worths[:fitted])
        rest = (worths[fitted:] - z[fitted:] @ weights).square().sum() / worths[fitted:].square().sum()
        best = max(best, 1 - float(rest))
    return best


def main() -> None:
    """Print R² by embedder and content."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="movie_tagging", choices=["movie_tagging", "news_categorization"])
    parser.add_argument("--users", type=int, default=100, help="users that the map is fitted on")
    parser.add_argument("--items", type=int, default=32, help="items of each user")
    parser.add_argument("--components", type=int, default=16)
    parser.add_argument("--embedders", default="words", help="comma-separated: words, all-minilm-l6-v2, backbone")
    parser.add_argument("--backbone", default="smollm2-135m")
    given = parser.parse_args()
    words = [f"task={given.task}", f"users.collective={given.users}", f"users.target={_OTHERS}", "cohort=1"]
    config = load_config(None, [*words, f"users.synthetic.history={given.items}"])
    folder, users = build_table(config).folder, range(given.users + _OTHERS)
    histories = [open_user(folder, user).history for user in users]
    worths = personal_worths(config, [open_user(folder, user).user_id for user in users])
    backbone = load(given.backbone, "fp32")
    clients: list[Any] = [Texts(given.task, history) for history in histories]
    for embedder in given.embedders.split(","):
        for contents in get_args(Contents):
            settings = ProfileSettings(embedder, 8, contents, 0)
            texts = [profile_text(client, settings) for client in clients]
            profiles = mean_embeddings(backbone, embedder, texts, 16, 512)
            r_squared = readable(profiles, worths, given.users, given.components)
            print(f"{embedder}, {contents}: R² {r_squared:.2f}", flush=True)


if __name__ == "__main__":
    main()
