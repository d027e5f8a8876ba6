"""Shifts on every decoder family, with tiny random models built in code."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BartConfig,
    BertConfig,
    Gemma2Config,
    GemmaConfig,
    GPT2Config,
    Lfm2Config,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    Phi3Config,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
    RobertaConfig,
)

from configs.errors import InputError
from configs.training import FitConfig
from fl_clients.backbone import load as load_module
from fl_clients.backbone.activation_store import ActivationStore
from fl_clients.backbone.batches import Example
from fl_clients.backbone.builtin import fetch
from fl_clients.backbone.forward import Forward
from fl_clients.backbone.frozen_prefix import FrozenPrefix
from fl_clients.backbone.load import Backbone, load, read_shape
from fl_clients.fit import LocalFit, answer_loss
from fl_clients.predict import generate, score_labels
from strategies.method import TrainRequest
from strategies.perfit import PerFit

# Thirty small models take a while.
pytestmark = pytest.mark.integration
VOCABULARY = 257
LLAMA: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "eos_token_id": 0,
    "bos_token_id": 0,
}
FAMILIES: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**LLAMA),
    # Its tokenizer adds a token of its own.
    "qwen2": Qwen2Config(**LLAMA | {"vocab_size": 258}),
    "qwen3": Qwen3Config(**LLAMA, head_dim=8),
    # The window is shorter than the prompts: tokens outside it must not be needed.
    "mistral": MistralConfig(**LLAMA, sliding_window=6),
    "gemma": GemmaConfig(**LLAMA, head_dim=8),
    "gemma2": Gemma2Config(**LLAMA, head_dim=8, sliding_window=6),
    "phi3": Phi3Config(**LLAMA),
    "gpt2": GPT2Config(
        vocab_size=VOCABULARY, n_embd=16, n_layer=3, n_head=2, n_positions=128, eos_token_id=0, bos_token_id=0
    ),
    "opt": OPTConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        word_embed_proj_dim=16,
        ffn_dim=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=128,
        pad_token_id=0,
        eos_token_id=0,
        bos_token_id=0,
    ),
}
PROMPTS = [[5, 6, 7, 8], [9, 10, 11, 12, 13, 14, 15, 16, 17, 18]]
LABELS = [[30], [31, 32], [33, 34, 35]]


def save(config: PreTrainedConfig, folder: Path, seed: int = 0) -> None:
    """Save a random model of a config with the tokenizer of `tiny`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(fetch("tiny")).save_pretrained(folder)


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path: Path, cache: Path) -> Backbone:
    save(FAMILIES[request.param], tmp_path)
    assert read_shape(str(tmp_path)).blocks == 3
    return load(str(tmp_path), "fp32")


def test_shifts_train_and_predict_on_every_family(family: Backbone) -> None:
    method = PerFit([0, 1], "all", 4, 2, True, "mean", 0)
    bare = score_labels(Forward(family, None), None, PROMPTS, LABELS)
    adapter = method.client_attach(family.model, family.shape)
    shared = method.server_init(family.shape)
    method.client_load(adapter, shared, None)
    # With W = R and b = 0 the base is unchanged.
    torch.testing.assert_close(score_labels(Forward(family, None), adapter, PROMPTS, LABELS), bare, rtol=0, atol=1e-5)

    examples = [Example(PROMPTS[0], [40, 0]), Example(PROMPTS[1], [41, 42, 0])]
    settings = FitConfig(epochs=20, batch_size=2, lr=0.05)

    fit = LocalFit(Forward(family, None), adapter, examples, settings, 0)
    trained = method.client_train(adapter, TrainRequest(1, shared, {}, fit))
    assert trained.fit.loss_last < trained.fit.loss_first - 0.05
    method.client_load(adapter, trained.shared, None)
    assert not torch.allclose(score_labels(Forward(family, None), adapter, PROMPTS, LABELS), bare, atol=1e-3)


@pytest.mark.parametrize(("positions", "site"), [("all", 1), ("l2", 1), ("f1+l2", 0), ("l2", 2)])
def test_the_stored_prefix_does_not_change_results_on_any_family(
    family: Backbone, positions: str, site: int, tmp_path: Path
) -> None:
    method = PerFit([site], positions, 4, 2, True, "mean", 0)
    adapter = method.client_attach(family.model, family.shape)
    moved = {name: value + 0.1 for name, value in method.server_init(family.shape).items()}
    method.client_load(adapter, moved, None)
    store = ActivationStore(tmp_path / "kept", 10**7, print)
    plain = Forward(family, None)
    kept = Forward(family, FrozenPrefix(family, "", adapter.frozen_blocks, adapter.suffix, store))
    examples = [Example(PROMPTS[0], [40, 0]), Example(PROMPTS[1], [41, 42, 43, 0]), Example([7], [44, 0])]
    trained = [*adapter.parameters()]
    for parameter in trained:
        parameter.requires_grad_(True)
    for _ in ("computed", "read"):
        losses, gradients = [], []
        for forward in (plain, kept):
            loss = answer_loss(forward, adapter, examples)
            losses.append(loss.detach())
            gradients.append(torch.autograd.grad(loss, trained))
        torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=0)
        for ours, theirs in zip(gradients[1], gradients[0], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-6)
        for active in (adapter, None):
            scores = [score_labels(forward, active, PROMPTS, LABELS) for forward in (plain, kept)]
            torch.testing.assert_close(scores[1], scores[0], rtol=1e-5, atol=1e-5)
    assert len(list((tmp_path / "kept").rglob("*.safetensors"))) == len(examples) + len(PROMPTS)


def test_a_decoder_with_blocks_other_than_attention_is_refused(tmp_path: Path, cache: Path) -> None:
    save(Lfm2Config(**LLAMA, layer_types=["conv", "full_attention", "conv"]), tmp_path)
    with pytest.raises(InputError, match=r"blocks are not all attention \(conv\)"):
        read_shape(str(tmp_path))


BERT: dict[str, Any] = {
    "vocab_size": 258,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 128,
    "is_decoder": True,
    "initializer_range": 0.5,  # so that attention matters
}
ODD: dict[str, tuple[PreTrainedConfig, str]] = {
    "positions that begin after the padding's": (RobertaConfig(**BERT, pad_token_id=1), "computes other logits"),
    "not causal": (BertConfig(**BERT | {"is_decoder": False}), "computes other logits"),
    "no positions for each row": (
        BartConfig(
            vocab_size=258,
            d_model=16,
            decoder_layers=3,
            encoder_layers=3,
            decoder_attention_heads=2,
            encoder_attention_heads=2,
            decoder_ffn_dim=32,
            encoder_ffn_dim=32,
            max_position_embeddings=128,
            pad_token_id=1,
            is_decoder=True,
            is_encoder_decoder=False,
            init_std=0.5,
        ),
        "computes other logits",
    ),
}


@pytest.mark.parametrize("kind", ODD)
def test_a_model_whose_batches_are_not_what_its_single_texts_are_is_refused(kind: str, tmp_path: Path) -> None:
    config, reason = ODD[kind]
    save(config, tmp_path)
    with pytest.raises(InputError, match=reason):
        read_shape(str(tmp_path))


def test_a_checked_backbone_is_not_checked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[Backbone] = []
    monkeypatch.setattr(load_module, "check_arithmetic", checked.append)
    save(LlamaConfig(**LLAMA, rms_norm_eps=1e-4), tmp_path)
    for _ in range(2):
        read_shape(str(tmp_path))
        load_module._read_shape.cache_clear()
    assert len(checked) == 1
    # Other weights of the same name are checked again.
    save(LlamaConfig(**LLAMA, rms_norm_eps=1e-4), tmp_path, seed=1)
    read_shape(str(tmp_path))
    assert len(checked) == 2


def test_padding_and_shared_prompts_do_not_change_results_on_any_family(family: Backbone) -> None:
    together = score_labels(Forward(family, None), None, PROMPTS, LABELS)
    for row, prompt in enumerate(PROMPTS):
        for column, label in enumerate(LABELS):
            tokens = torch.tensor([prompt + label])
            logits = family.model(tokens).logits.log_softmax(-1)[0, len(prompt) - 1 : -1]
            alone = logits.gather(1, torch.tensor(label)[:, None]).sum()
            torch.testing.assert_close(together[row, column], alone, rtol=1e-4, atol=1e-4)


def test_greedy_decoding_equals_transformers_on_every_family(family: Backbone) -> None:
    texts = generate(Forward(family, None), None, PROMPTS, 6, frozenset({0}), None)
    for prompt, text in zip(PROMPTS, texts, strict=True):
        tokens = family.model.generate(torch.tensor([prompt]), max_new_tokens=6, do_sample=False, pad_token_id=0)
        answer = tokens[0, len(prompt) :].tolist()
        answer = answer[: answer.index(0)] if 0 in answer else answer
        assert text == family.tokenizer.decode(answer).strip()
