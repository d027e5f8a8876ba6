"""What the methods built on low-rank shifts share: checks, initial values, training with retraction, names."""

from collections.abc import Iterable, Mapping, Sequence

import torch

from configs.seeds import derive_seed
from strategies.method import BackboneShape, Fit, FitResult, Tensors
from strategies.shifts.shift import random_orthonormal, retract
from strategies.shifts.sites import SiteShifts

Triple = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""R [r, d], W [r, d], b [r]."""


Rates = tuple[float, float]
"""Learning rates of R and b, as multiples of D's."""


def checked_sites(sites: list[int], key: str = "sites") -> list[int]:
    """Return the sites in order.

    Raises:
        ValueError: There are no sites, or one is given twice; names the config key.
    """
    if not sites or len(set(sites)) != len(sites):
        raise ValueError(f"{key}={sites}: expected at least one block, none of them twice")
    return sorted(sites)


def ranks_at(sites: list[int], key: str, rank: int | Sequence[int]) -> dict[int, int]:
    """Return the rank at every site, in the order of sites.

    Args:
        sites: Decoder blocks, in order.
        key: The config key of the rank.
        rank: One for all sites, or one for each.

    Raises:
        ValueError: There are more or fewer ranks than sites.
    """
    if isinstance(rank, int):
        return dict.fromkeys(sites, rank)
    if len(rank) != len(sites):
        raise ValueError(f"{key}={list(rank)}: expected one rank, or {len(sites)}, one for each of the sites {sites}")
    return dict(zip(sites, rank, strict=True))


def summed_ranks(sites: list[int], key: str, *ranks: int | Sequence[int]) -> dict[int, int]:
    """Return the sum of several ranks at every site; see `ranks_at`."""
    by_rank = [ranks_at(sites, key, rank) for rank in ranks]
    return {site: sum(rank[site] for rank in by_rank) for site in sites}


def personal_ranks(
    sites: list[int], private_sites: list[int] | None, rank: int | Sequence[int]
) -> tuple[dict[int, int], str]:
    """Return a personal shift's ranks by site, and the config key that gives its sites.

    Args:
        sites: Those of the collective shift.
        private_sites: Its own; None: the same.
        rank: r⁽²⁾, one for all sites, or one for each.

    Raises:
        ValueError: Sites or ranks are invalid for every backbone.
    """
    key = "sites" if private_sites in (None, sites) else "private_sites"
    return ranks_at(checked_sites(private_sites or sites, key), "rank.private", rank), key


def check_fit(key: str, ranks: Mapping[int, int], backbone: BackboneShape, sites_key: str = "sites") -> None:
    """Refuse a site beyond the last block and a rank above d.

    Args:
        key: The config key of the ranks.
        ranks: By site.
        backbone: The backbone to fit.
        sites_key: The config key of the sites.

    Raises:
        ValueError: Names the key.
    """
    for site, rank in ranks.items():
        if not 0 <= site < backbone.blocks:
            raise ValueError(f"{sites_key}={[*ranks]}: the backbone has blocks 0 to {backbone.blocks - 1}")
        if rank < 1:
            raise ValueError(f"{key}={rank}: expected at least 1")
        if rank > backbone.hidden:
            raise ValueError(f"{key}={rank}: the backbone's hidden size is {backbone.hidden}")


def checked_rates(rate_R: float, rate_b: float) -> Rates:
    """Return both rates.

    Raises:
        ValueError: One is not above 0.
    """
    for key, multiple in (("rate_R", rate_R), ("rate_b", rate_b)):
        if not multiple > 0:
            raise ValueError(f"settings.{key}={multiple}: expected a number above 0")
    return rate_R, rate_b


def identity(rank: int, hidden: int, seed: int, *names: str | int) -> Triple:
    """Return a random orthonormal R, W = R and b = 0: φ is the identity.

    Args:
        rank: r.
        hidden: d.
        seed: The run's seed.
        names: The purpose of the initial values, for the seed.
    """
    R = random_orthonormal(rank, hidden, torch.Generator().manual_seed(derive_seed(seed, "start", *names)))
    return R, R.clone(), torch.zeros(len(R))


def start(ranks: Mapping[int, int], hidden: int, seed: int, stage: str, prefix: str) -> Tensors:
    """Return the identity at every site, named `<prefix>.<site>.R` and so on.

    Args:
        ranks: By site.
        hidden: d.
        seed: The run's seed.
        stage: The purpose of the initial values, for the seed.
        prefix: Prefix of the tensors' names.
    """
    tensors: Tensors = {}
    for site, rank in ranks.items():
        tensors |= named(f"{prefix}.{site}", identity(rank, hidden, seed, stage, site))
    return tensors


def named(prefix: str, triple: Sequence[torch.Tensor]) -> Tensors:
    """Name R, W, b as in messages: `<prefix>.R` and so on."""
    return {f"{prefix}.{letter}": value for letter, value in zip("RWb", triple, strict=True)}


def triple(tensors: Tensors, prefix: str) -> Triple:
    """Return R, W, b from tensors named by `named`."""
    return tensors[f"{prefix}.R"], tensors[f"{prefix}.W"], tensors[f"{prefix}.b"]


def state(adapter: SiteShifts, shift_name: str, prefix: str) -> Tensors:
    """Return one shift's tensors at all sites as `<prefix>.<site>.R` and so on."""
    tensors: Tensors = {}
    for site in adapter.sites(shift_name):
        shift = adapter.shift(shift_name, site)
        values = [value.detach().cpu().clone() for value in (shift.R, shift.W, shift.b)]
        tensors |= named(f"{prefix}.{site}", values)
    return tensors


def load(adapter: SiteShifts, shift_name: str, tensors: Tensors, prefix: str) -> None:
    """Set one shift at all sites from the tensors that `state` returned."""
    for site in adapter.sites(shift_name):
        adapter.shift(shift_name, site).load(*triple(tensors, f"{prefix}.{site}"))


def to_wire(tensors: Tensors) -> Tensors:
    """Return R, D = W − R and b for every R, W, b: R's changes are not sent twice, and D's start at 0."""
    coded: Tensors = {}
    for name, value in tensors.items():
        prefix, _, letter = name.rpartition(".")
        coded[f"{prefix}.D" if letter == "W" else name] = value - tensors[f"{prefix}.R"] if letter == "W" else value
    return coded


def from_wire(coded: Tensors) -> Tensors:
    """Return R with orthonormal rows, W and b that are the function of the given R, D and b (`retract`)."""
    tensors: Tensors = {}
    for name in coded:
        prefix, _, letter = name.rpartition(".")
        if letter == "R":
            R, D, b = (coded[f"{prefix}.{part}"].double() for part in "RDb")
            tensors |= named(prefix, [value.float().contiguous() for value in retract(R, R + D, b)])
    return tensors


def train(adapter: SiteShifts, shift_names: Iterable[str], fit: Fit, rates: Rates = (1.0, 1.0)) -> FitResult:
    """Train the named shifts; after every step, R is retracted to orthonormal rows.

    Args:
        adapter: Has the shifts.
        shift_names: What is trained.
        fit: The training.
        rates: Learning rates of R and b as multiples of that of D.
    """
    shifts = [adapter.shift(shift_name, site) for shift_name in shift_names for site in adapter.sites(shift_name)]

    def retract_all() -> None:
        for shift in shifts:
            shift.retract()

    of_R, of_b = rates
    parameters = [parameter for shift in shifts for parameter in (shift.R, shift.D, shift.b)]
    return fit(parameters, retract_all, [of_R, 1.0, of_b] * len(shifts))


def parameters(ranks: Mapping[int, int], hidden: int) -> int:
    """Return the sum of 2rd + r over the sites; L(2rd + r) if all L sites have the same rank."""
    return sum(2 * rank * hidden + rank for rank in ranks.values())
