"""LoRA adapters and local training, compared with `peft` and a plain PyTorch loop."""

import math

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, GPT2Config

from configs.training import FitConfig
from fl_clients.backbone.batches import Example, epoch_batches
from fl_clients.backbone.forward import Forward
from fl_clients.backbone.load import Backbone, find, load, read_shape, shape_of
from fl_clients.fit import LocalFit, rate
from fl_clients.predict import score_labels
from strategies import lora
from strategies.lora.common import COLLECTIVE, PERSONAL, SHARED, LoraSettings
from strategies.lora_c import LoraC
from strategies.method import BackboneShape, TrainRequest
from strategies.oppu import Oppu

TARGETS = ["q_proj", "k_proj", "v_proj"]
EXAMPLES = [Example([5, 6, 7 + n], [20 + n, 30, 0]) for n in range(7)] + [Example([9] * 12, [40, 0])]
IDS = torch.tensor([[5, 6, 7, 8]])
NOWHERE = torch.zeros(1, 4, dtype=torch.bool)


@pytest.fixture
def backbone(cache: object) -> Backbone:
    """A tiny backbone for one test only, because peft wraps its modules permanently."""
    return load("tiny", "fp32")


def method(dropout: float = 0.0, blocks: tuple[int, ...] = ()) -> LoraC:
    return LoraC(4, 8, dropout, TARGETS, list(blocks), 0)


def plain_peft_losses(settings: FitConfig, start: dict[str, torch.Tensor]) -> list[float]:
    """A plain training loop with peft: the whole model, right-padded batches, all logits."""
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(find("tiny")), LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS)
    )
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            module, letter, _ = name.removeprefix("base_model.model.").rsplit(".", 3)[0:3]
            parameter.data.copy_(start[f"{SHARED}.{module}.{letter[-1]}"])
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.lr, weight_decay=settings.weight_decay)
    generator = torch.Generator().manual_seed(3)
    steps = settings.epochs * math.ceil(len(EXAMPLES) / settings.batch_size)
    losses: list[float] = []
    for _ in range(settings.epochs):
        for batch in epoch_batches(EXAMPLES, settings.batch_size, generator):
            length = max(map(len, batch))
            ids = torch.tensor([e.prompt + e.answer + [0] * (length - len(e)) for e in batch])
            mask = torch.tensor([[1] * len(e) + [0] * (length - len(e)) for e in batch])
            labels = torch.tensor([[-100] * len(e.prompt) + e.answer + [-100] * (length - len(e)) for e in batch])
            logits = model(input_ids=ids, attention_mask=mask).logits
            loss = cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
            for group in optimizer.param_groups:
                group["lr"] = settings.lr * rate((len(losses) + 0.5) / steps, settings.warmup)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, settings.clip)
            optimizer.step()
            losses.append(loss.item())
    return losses


def test_local_training_equals_a_plain_peft_loop_step_by_step(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = FitConfig(epochs=3, batch_size=3, lr=2e-2, weight_decay=0.1)
    ours = method()
    adapter, start = ours.client_attach(backbone.model, backbone.shape), ours.server_init(backbone.shape)
    losses: list[float] = []
    monkeypatch.setattr(math, "isfinite", lambda value: losses.append(value) is None)
    fit = LocalFit(Forward(backbone, None), adapter, EXAMPLES, settings, 3)
    ours.client_train(adapter, TrainRequest(1, start, {}, fit))
    assert losses == pytest.approx(plain_peft_losses(settings, start), rel=1e-5)
    assert losses[-1] < losses[0] - 0.03


def test_the_start_has_pefts_distribution_and_does_not_change_the_model(backbone: Backbone) -> None:
    ours = method()
    start = ours.server_init(backbone.shape)
    assert {name: value.shape for name, value in start.items()}["shared_lora.model.layers.0.self_attn.k_proj.B"] == (
        8,
        4,
    )
    A = torch.cat([value.flatten() for name, value in start.items() if name.endswith(".A")])
    # peft: Kaiming uniform with a = √5 on n = 16 inputs is uniform within ±1/√16.
    assert 0.24 < A.abs().max() <= 0.25
    assert abs(float(A.std()) - 0.25 / 3**0.5) < 0.01
    bare = backbone.model(IDS).logits
    adapter = ours.client_attach(backbone.model, backbone.shape)
    ours.client_load(adapter, start, None)
    with adapter.active(NOWHERE):
        assert torch.equal(backbone.model(IDS).logits, bare)


def test_adapters_act_only_inside_active_and_add_up(backbone: Backbone) -> None:
    ours = Oppu(4, 8, 0.0, TARGETS, ["q_proj", "v_proj"], [], 0)
    bare = backbone.model(IDS).logits
    adapter = ours.client_attach(backbone.model, backbone.shape)
    for parameter in adapter.trainable(COLLECTIVE, PERSONAL):
        parameter.data.normal_(std=0.3, generator=torch.Generator().manual_seed(1))
    weights = {name: layer.get_base_layer().weight.clone() for name, layer in adapter._layers.items()}
    expected = dict(weights)
    for name in (COLLECTIVE, PERSONAL):
        state = adapter.state(name, "x")
        for module in adapter._modules_of[name]:
            expected[module] = expected[module] + 2 * state[f"x.{module}.B"] @ state[f"x.{module}.A"]  # α/r = 2
    adapter.use(COLLECTIVE, PERSONAL)
    with adapter.active(NOWHERE):
        both = backbone.model(IDS).logits
    assert torch.equal(backbone.model(IDS).logits, bare)
    adapter.use()
    adapter.add_to_base({module: value - weights[module] for module, value in expected.items()})
    with adapter.active(NOWHERE):
        merged = backbone.model(IDS).logits
    torch.testing.assert_close(both, merged, rtol=0, atol=1e-5)
    assert (both - bare).abs().max() > 1e-2
    assert all(torch.equal(adapter._layers[name].get_base_layer().weight, value) for name, value in weights.items())


def test_dropout_acts_only_in_training(backbone: Backbone) -> None:
    ours = method(dropout=0.5)
    adapter = ours.client_attach(backbone.model, backbone.shape)
    for parameter in adapter.trainable(COLLECTIVE):
        parameter.data.fill_(0.1)
        parameter.requires_grad_(True)
    adapter.use(COLLECTIVE)
    with adapter.active(NOWHERE):
        assert torch.equal(backbone.model(IDS).logits, backbone.model(IDS).logits)
        adapter.train()
        assert not torch.equal(backbone.model(IDS).logits, backbone.model(IDS).logits)
        adapter.train(False)
        assert torch.equal(backbone.model(IDS).logits, backbone.model(IDS).logits)


def test_a_fixed_adapter_acts_in_training_as_in_serving(backbone: Backbone) -> None:
    ours = Oppu(4, 8, 0.5, TARGETS, ["q_proj"], [], 0)
    adapter = ours.client_attach(backbone.model, backbone.shape)
    for parameter in adapter.trainable(PERSONAL):
        parameter.requires_grad_(True)
    adapter.train()
    dropping = {
        name for layer in adapter._layers.values() for name, module in layer.lora_dropout.items() if module.training
    }
    assert dropping == {PERSONAL}


def test_labels_are_scored_with_the_adapter_acting_on_label_tokens_too(backbone: Backbone) -> None:
    ours = method()
    adapter = ours.client_attach(backbone.model, backbone.shape)
    for parameter in adapter.trainable(COLLECTIVE):
        parameter.data.normal_(std=0.3, generator=torch.Generator().manual_seed(1))
    adapter.use(COLLECTIVE)
    prompt, label = [5, 6, 7], [31, 32, 33]
    scored = score_labels(Forward(backbone, None), adapter, [prompt], [[30], label])
    with torch.no_grad(), adapter.active(NOWHERE):
        logs = backbone.model(torch.tensor([prompt + label])).logits[0, 2:-1].log_softmax(-1)
    assert float(scored[0, 1]) == pytest.approx(float(logs.gather(1, torch.tensor(label)[:, None]).sum()), abs=1e-4)


def test_adapters_are_fp32_on_a_bf16_backbone(cache: object) -> None:
    backbone = load("tiny", "bf16")
    ours = method()
    adapter = ours.client_attach(backbone.model, backbone.shape)
    fit = LocalFit(Forward(backbone, None), adapter, EXAMPLES, FitConfig(batch_size=4), 0)
    trained = ours.client_train(adapter, TrainRequest(1, ours.server_init(backbone.shape), {}, fit))
    assert {tensor.dtype for tensor in trained.shared.values()} == {torch.float32}
    assert backbone.model.dtype == torch.bfloat16


def test_a_merged_change_too_small_for_bf16_is_not_lost_to_rounding(cache: object) -> None:
    backbone = load("tiny", "bf16")
    adapter = method().client_attach(backbone.model, backbone.shape)
    module = adapter._modules_of[COLLECTIVE][0]
    layer = adapter._layers[module].get_base_layer()
    outputs, inputs = layer.weight.shape
    change = torch.full((outputs, inputs), 1e-4)
    adapter.use()
    adapter.add_to_base({module: change})
    given = torch.zeros(1, inputs, dtype=torch.bfloat16)
    given[0, 0] = 1
    before, weight = layer(given), layer.weight
    with torch.no_grad(), adapter.active(NOWHERE):
        moved = adapter._layers[module](100 * given) - 100 * before
    assert layer.weight is weight
    torch.testing.assert_close(layer(given), before)
    # 100 · 10⁻⁴ added to outputs of about 1, of which bf16 keeps 2 to 3 digits.
    assert float(moved.float().mean()) == pytest.approx(1e-2, rel=0.3)


def test_blocks_below_the_lowest_adapted_one_are_frozen(backbone: Backbone) -> None:
    ours = method(blocks=(2, 3))
    adapter = ours.client_attach(backbone.model, backbone.shape)
    assert adapter.frozen_blocks == 2
    assert {lora.block_of(module) for module in adapter._modules_of[COLLECTIVE]} == {2, 3}
    assert method().client_attach(backbone.model, backbone.shape).frozen_blocks == 0


def test_changes_are_merged_transposed_into_transposed_weights() -> None:
    # GPT-2's Conv1D: 16 inputs, 48 outputs, the weight is 16×48.
    config = GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2, n_positions=32)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    shape = shape_of(model)
    assert shape.linears["transformer.h.0.attn.c_attn"] == (16, 48)
    adapter = lora.attach(model, {COLLECTIVE: LoraSettings(4, 8, 0.0, ("c_attn",), ()).on(shape)})
    for parameter in adapter.trainable(COLLECTIVE):
        parameter.data.normal_(std=0.3, generator=torch.Generator().manual_seed(1))
    adapter.use(COLLECTIVE)
    with torch.no_grad(), adapter.active(NOWHERE):
        trained = model(IDS).logits
    state = adapter.state(COLLECTIVE, "x")
    adapter.use()
    adapter.add_to_base({m: 2 * state[f"x.{m}.B"] @ state[f"x.{m}.A"] for m in adapter._modules_of[COLLECTIVE]})
    with torch.no_grad(), adapter.active(NOWHERE):
        torch.testing.assert_close(model(IDS).logits, trained, rtol=0, atol=1e-5)


def test_a_target_may_be_a_longer_suffix_of_a_module_name() -> None:
    shape = BackboneShape(
        6, 2, 1000, {f"layers.{n}.{m}": (6, 6) for n in (0, 1) for m in ("attn.q", "mlp.q", "attn.v")}
    )
    chosen = LoraSettings(2, 4, 0.0, ("attn.q", "v"), ()).on(shape).modules
    assert chosen == ("layers.0.attn.q", "layers.0.attn.v", "layers.1.attn.q", "layers.1.attn.v")
    with pytest.raises(ValueError, match=r"settings.blocks=\[1\]: no up in these blocks"):
        LoraSettings(2, 4, 0.0, ("up",), (1,)).on(BackboneShape(6, 2, 1000, {"layers.0.up": (6, 6)}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"targets": ("q_prj",)},
            r"settings.targets: no module 'q_prj' in the backbone \(its linear modules: down_proj",
        ),
        ({"targets": ()}, "settings.targets"),
        ({"rank": 0}, "settings.rank=0"),
        ({"dropout": 1.0}, "settings.dropout=1.0"),
        ({"blocks": (4,)}, "the backbone has blocks 0 to 3"),
        ({"rank": 33}, r"settings.rank=33: the rank of model.layers.0.self_attn.q_proj is at most \d+"),
    ],
)
def test_settings_that_do_not_fit_the_backbone_are_refused(changes: dict[str, object], message: str) -> None:
    settings = {"rank": 4, "alpha": 8, "dropout": 0.0, "targets": ("q_proj",), "blocks": ()} | changes
    with pytest.raises(ValueError, match=message):
        LoraSettings(**settings).on(read_shape("tiny", usable=False))  # type: ignore[arg-type]
