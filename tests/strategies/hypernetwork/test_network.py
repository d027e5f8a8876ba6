"""The network's size is the source's, and everybody begins with the same adapter."""

import pytest
import torch

from configs.import_path import ROOT
from configs.load import load_config
from strategies.hypernetwork.network import SLOPE_RATE, Hypernetwork, NetworkSize

SMALL = NetworkSize(latent=8, head=6, dropout=0.0)
START = {"q": torch.arange(5.0), "v": -torch.arange(3.0)}


def test_parameters_for_qwen_are_those_that_the_source_reports() -> None:
    settings = load_config(None, [f"method={ROOT / 'configs' / 'variants' / 'p2p-paper.toml'}"]).settings
    size = NetworkSize(*(settings[key] for key in ("latent", "head", "dropout", "depth_bias", "components")))
    # Qwen2.5-7B: d = 3584, 28 blocks, q 3584 and v 512 wide; profiles of 2560, LoRA of rank 8.
    starts = {"q_proj": torch.zeros(8 * (3584 + 3584)), "v_proj": torch.zeros(8 * (3584 + 512))}
    with torch.device("meta"):
        network = Hypernetwork(2560, 28, starts, size, 0)
    heads = sum(value.numel() for value in (*network.weights, *network.biases))
    count = sum(parameter.numel() for parameter in network.parameters())
    assert heads / 1e6 == pytest.approx(185, abs=0.5)
    assert (count - heads) / 1e6 == pytest.approx(39, abs=0.5)
    assert count / 1e6 == pytest.approx(223.7, abs=0.1)


def test_everybody_begins_with_the_usual_adapter_at_every_depth() -> None:
    network = Hypernetwork(4, 3, START, SMALL, 0).eval()
    for profile in (torch.zeros(4), torch.randn(4)):
        rows = network(profile)
        assert {kind: row.shape for kind, row in rows.items()} == {"q": (3, 5), "v": (3, 3)}
        assert all(torch.equal(row, START[kind].expand_as(row)) for kind, row in rows.items())


def test_components_come_after_the_embedding_and_act_through_slopes_of_each_depth() -> None:
    network = Hypernetwork(2, 3, {"q": torch.zeros(1)}, NetworkSize(8, 6, 0.0, True, components=1), 0).eval()
    with torch.no_grad():
        network.slopes[0].copy_(torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1))
    rows = network(torch.tensor([0.7, -0.3, 10.0]))["q"].flatten()
    torch.testing.assert_close(rows, SLOPE_RATE**0.5 * torch.tensor([10.0, 20.0, 30.0]))


def test_only_heads_learn_in_the_first_step_and_everything_afterwards() -> None:
    network = Hypernetwork(4, 3, START, SMALL, 0)
    profile = torch.randn(4)
    moved = []
    for _ in range(2):
        network.zero_grad()
        torch.cat([row.flatten() for row in network(profile).values()]).square().sum().backward()
        moved.append(
            {name for name, value in network.named_parameters() if value.grad is not None and value.grad.any()}
        )
        with torch.no_grad():
            for parameter in network.parameters():
                parameter -= 0.1 * parameter.grad if parameter.grad is not None else 0
    assert {name.partition(".")[0] for name in moved[0]} == {"weights", "biases"}
    assert {name.partition(".")[0] for name in moved[1]} == {
        *("weights", "biases"),
        "profile",
        "depth",
        "kind",
        "mixer",
        "blocks",
        "last",
    }


def test_weights_come_from_the_seed_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    one, same, other = (Hypernetwork(4, 3, START, SMALL, seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["profile.0.weight"], other["profile.0.weight"])


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (NetworkSize(6, 4, 0.0), "settings.latent=6: expected a positive multiple of 4"),
        (NetworkSize(8, 0, 0.0), "settings.head=0: expected at least 1"),
        (NetworkSize(8, 4, 1.0), "settings.dropout=1.0: expected at least 0 and below 1"),
    ],
)
def test_sizes_that_do_not_work_are_named(size: NetworkSize, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        size.check()
