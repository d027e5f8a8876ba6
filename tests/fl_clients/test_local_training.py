"""Batches, the training loop and predictions on the tiny backbone."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from torch.nn.functional import cross_entropy, log_softmax
from transformers import AutoTokenizer

from configs.training import FitConfig
from fl_clients.backbone.batches import IGNORED, Encoder, Example, collate, epoch_batches
from fl_clients.backbone.forward import Forward
from fl_clients.backbone.load import Backbone
from fl_clients.fit import LocalFit, answer_loss, rate
from fl_clients.lamp.tasks import find_task
from fl_clients.lamp.user import Pair
from fl_clients.predict import generate, score_labels
from strategies.perfit import PerFit
from strategies.shifts.sites import SiteShifts

END = 0
METHOD = PerFit([1, 2], "all", 4, 2, True, "mean", 0)
EXAMPLES = [Example([5, 6, 7], [8, 0]), Example([9, 10, 11, 12, 13], [14, 15, 0]), Example([20, 21], [22, 0])]


@pytest.fixture
def attached(tiny: Backbone) -> SiteShifts:
    for block in tiny.model.model.layers:
        block._forward_hooks.clear()
    adapter = METHOD.client_attach(tiny.model, tiny.shape)
    shared = METHOD.server_init(tiny.shape)
    METHOD.client_load(adapter, {name: value + 0.1 * (name[-1] == "b") for name, value in shared.items()}, None)
    return adapter


def test_collate_pads_left_and_labels_answers_only() -> None:
    batch = collate(EXAMPLES[:2], pad=99, device=torch.device("cpu"))
    assert batch.input_ids.tolist() == [[99, 99, 99, 5, 6, 7, 8, 0], [9, 10, 11, 12, 13, 14, 15, 0]]
    assert batch.prompt.int().tolist() == [[0, 0, 0, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 0, 0, 0]]
    assert batch.position_ids.tolist() == [[0, 0, 0, 0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5, 6, 7]]
    assert batch.labels.tolist() == [[IGNORED, 8, 0], [14, 15, 0]]


def test_a_long_prompt_is_cut_and_its_answer_is_not(tiny: Backbone) -> None:
    task = find_task("movie_tagging")
    (example,) = Encoder(task, tiny.tokenizer).examples([Pair("1", "x" * 500, "dark comedy")], max_tokens=60)
    assert len(example) == 60
    assert example.cut
    assert tiny.tokenizer.decode(example.answer) == "dark comedy<eos>"
    assert tiny.tokenizer.decode(example.prompt).startswith("Movie: ")
    assert tiny.tokenizer.decode(example.prompt).endswith("Tag: ")


def test_the_common_beginning_of_all_labels_belongs_to_the_prompt(tiny: Backbone) -> None:
    # With one byte per token, all labels begin with a space; after it, "1" and "2" differ.
    encoder = Encoder(find_task("product_rating"), tiny.tokenizer)
    (example,) = encoder.examples([Pair("1", "Fine.", "4")], 100)
    assert tiny.tokenizer.decode(example.prompt).endswith("from 1 to 5: ")
    assert tiny.tokenizer.decode(example.answer) == "4<eos>"
    assert encoder.prompt("Fine.", 100) == (example.prompt, False)
    assert [tiny.tokenizer.decode(label) for label in encoder.labels] == ["1", "2", "3", "4", "5"]
    # Texts have no common first token, so the answer keeps its space.
    (headline,) = Encoder(find_task("news_headline"), tiny.tokenizer).examples([Pair("1", "x", "Big news")], 100)
    assert tiny.tokenizer.decode(headline.answer) == " Big news<eos>"


def test_a_begin_token_precedes_the_prompt_if_the_tokenizer_adds_one(tiny: Backbone, tmp_path: Path) -> None:
    tiny.tokenizer.save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, bos_token="<eos>")
    task = find_task("movie_tagging")
    bare, _ = Encoder(task, tokenizer).prompt("A fight.", 100)
    begin = [("<eos>", int(tokenizer.bos_token_id))]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<eos> $A", special_tokens=begin)
    with_begin, _ = Encoder(task, tokenizer).prompt("A fight.", 100)
    assert with_begin == [tokenizer.bos_token_id, *bare]
    cut, is_cut = Encoder(task, tokenizer).prompt("A long fight." * 9, 20)
    assert (cut[0], len(cut), is_cut) == (tokenizer.bos_token_id, 20, True)
    # Answers have no begin token.
    (example,) = Encoder(task, tokenizer).examples([Pair("1", "A fight.", "comedy")], 100)
    assert tokenizer.decode(example.answer) == "comedy<eos>"


def test_an_epoch_has_every_example_once_in_an_order_set_by_the_seed() -> None:
    examples = [Example([1] * n, [0]) for n in range(1, 40)]
    batches = epoch_batches(examples, 4, torch.Generator().manual_seed(1))
    assert sorted(len(example) for batch in batches for example in batch) == list(range(2, 41))
    assert batches == epoch_batches(examples, 4, torch.Generator().manual_seed(1))
    assert batches != epoch_batches(examples, 4, torch.Generator().manual_seed(2))


def test_the_loss_of_a_batch_equals_that_of_unpadded_examples(tiny: Backbone, attached: SiteShifts) -> None:
    with torch.no_grad():
        total, tokens = 0.0, 0
        for example in EXAMPLES:
            ids = torch.tensor([example.prompt + example.answer])
            prompt = torch.tensor([[True] * len(example.prompt) + [False] * len(example.answer)])
            with attached.active(prompt):
                logits = tiny.model(ids).logits[0, len(example.prompt) - 1 : -1]
            total += float(cross_entropy(logits, torch.tensor(example.answer), reduction="sum"))
            tokens += len(example.answer)
        assert float(answer_loss(Forward(tiny, None), attached, EXAMPLES)) == pytest.approx(total / tokens, rel=1e-5)


def test_label_scores_equal_those_of_whole_sequences(tiny: Backbone, attached: SiteShifts) -> None:
    prompts, labels = [[5, 6, 7], [9, 10, 11, 12]], [[30], [31, 32, 33], [34, 35]]
    scores = score_labels(Forward(tiny, None), attached, prompts, labels)
    for row, prompt in enumerate(prompts):
        for column, label in enumerate(labels):
            ids = torch.tensor([prompt + label])
            mask = torch.tensor([[True] * len(prompt) + [False] * len(label)])
            with torch.no_grad(), attached.active(mask):
                logs = log_softmax(tiny.model(ids).logits[0, len(prompt) - 1 : -1], dim=-1)
            expected = float(logs.gather(1, torch.tensor(label)[:, None]).sum())
            assert float(scores[row, column]) == pytest.approx(expected, abs=1e-4)


def test_greedy_generation_equals_transformers(tiny: Backbone) -> None:
    prompt = [5, 6, 7, 40]
    (text,) = generate(Forward(tiny, None), None, [prompt], 8, frozenset({END}), None)
    theirs = tiny.model.generate(torch.tensor([prompt]), max_new_tokens=8, do_sample=False)
    assert text == tiny.tokenizer.decode(theirs[0, 4:], skip_special_tokens=True).strip()


def test_sampling_depends_only_on_the_querys_seed(tiny: Backbone) -> None:
    prompts = [[5, 6, 7], [9, 10, 11, 12, 13]]
    together = generate(Forward(tiny, None), None, prompts, 12, frozenset({END}), [3, 4])
    alone = [
        generate(Forward(tiny, None), None, [p], 12, frozenset({END}), [seed])[0]
        for p, seed in zip(prompts, (3, 4), strict=True)
    ]
    assert together == alone


def test_fit_trains_only_the_given_parameters(tiny: Backbone, attached: SiteShifts) -> None:
    before = {name: value.clone() for name, value in tiny.model.state_dict().items()}
    collective = {name: value.clone() for name, value in attached.shifts["collective"].state_dict().items()}
    personal = [parameter for site in ("1", "2") for parameter in attached.shift("personal", site).parameters()]
    start = personal[1].clone()
    calls: list[int] = []
    settings = FitConfig(epochs=3, batch_size=2, lr=0.05)
    result = LocalFit(Forward(tiny, None), attached, EXAMPLES, settings, 1)(personal, lambda: calls.append(1))
    assert (result.examples, result.steps, len(calls)) == (3, 6, 6)
    assert not torch.equal(personal[1], start)
    assert all(torch.equal(value, before[name]) for name, value in tiny.model.state_dict().items())
    assert all(torch.equal(v, collective[name]) for name, v in attached.shifts["collective"].state_dict().items())


def test_a_nonfinite_loss_stops_the_client(tiny: Backbone, attached: SiteShifts) -> None:
    with torch.no_grad():
        attached.shift("personal", "1").b.fill_(math.inf)
    personal = list(attached.shift("personal", "1").parameters())
    with pytest.raises(FloatingPointError, match="at step 1"):
        LocalFit(Forward(tiny, None), attached, EXAMPLES, FitConfig(), 1)(personal)


def test_the_schedule_warms_up_and_decays_to_zero() -> None:
    assert [rate(progress, 0.2) for progress in (0, 0.1, 0.2, 0.6, 1.0)] == pytest.approx([0, 0.5, 1, 0.5, 0])


class Rates(torch.optim.SGD):
    """Records the learning rates of every step."""

    seen: list[list[float]]

    def step(self, *_: object) -> None:  # type: ignore[override]
        self.seen.append([float(group["lr"]) for group in self.param_groups])


def rates_of(
    tiny: Backbone, attached: SiteShifts, monkeypatch: pytest.MonkeyPatch, **settings: Any
) -> list[list[float]]:
    Rates.seen = []
    monkeypatch.setattr(torch.optim, "AdamW", lambda groups, lr, weight_decay: Rates(groups, lr=lr))
    fit = LocalFit(Forward(tiny, None), attached, EXAMPLES, FitConfig(batch_size=1, warmup=0, lr=1, **settings), 0)
    shift = attached.shift("collective", "1")
    fit([shift.R, shift.D, shift.b], lambda: None, [0.5, 1.0, 0.5])
    return Rates.seen


def test_parameters_may_have_rates_of_their_own(
    tiny: Backbone, attached: SiteShifts, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Linear decay over three steps: 5/6, 3/6, 1/6; half of it for R and b.
    expected = [[0.5 * height, height] for height in (5 / 6, 3 / 6, 1 / 6)]
    assert rates_of(tiny, attached, monkeypatch) == [pytest.approx(step) for step in expected]


def test_a_training_may_warm_up_on_its_own(
    tiny: Backbone, attached: SiteShifts, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first two of three steps rise: at 1/6 and 3/6 of the steps, 1/4 and 3/4 of the schedule's rate.
    found = [step[1] for step in rates_of(tiny, attached, monkeypatch, visit_warmup=2 / 3)]
    assert found == pytest.approx([5 / 6 * 1 / 4, 3 / 6 * 3 / 4, 1 / 6])


def test_a_proximal_term_keeps_a_training_near_its_start(tiny: Backbone, attached: SiteShifts) -> None:
    moved = {}
    for mu in (0.0, 100.0):
        shift = attached.shift("collective", "1")
        shift.load(torch.eye(4, 16), torch.eye(4, 16), torch.zeros(4))
        settings = FitConfig(epochs=10, lr=0.1, proximal=mu)
        LocalFit(Forward(tiny, None), attached, EXAMPLES, settings, 0)([shift.b])
        moved[mu] = float(shift.b.norm())
    assert moved[100.0] < 0.5 * moved[0.0]


def test_sgd_steps_along_the_gradient(tiny: Backbone, attached: SiteShifts) -> None:
    shift = attached.shift("collective", "1")
    shift.b.requires_grad_(True)
    answer_loss(Forward(tiny, None), attached, EXAMPLES).backward()
    start, gradient = shift.b.detach().clone(), shift.b.grad
    assert gradient is not None
    settings = FitConfig(optimizer="sgd", lr=0.5, warmup=0, batch_size=3, clip=1e9)
    LocalFit(Forward(tiny, None), attached, EXAMPLES, settings, 0)([shift.b])
    # A schedule of one step is at its middle: half of the peak rate.
    assert torch.allclose(shift.b, start - 0.25 * gradient, atol=1e-7)


def test_second_moments_are_kept_from_visit_to_visit(tiny: Backbone, attached: SiteShifts) -> None:
    shift, forward = attached.shift("collective", "1"), Forward(tiny, None)
    settings = FitConfig(batch_size=1, keep_moments=True)
    first = LocalFit(forward, attached, EXAMPLES, settings, 0)
    first([shift.b, shift.D], lambda: None, [10.0, 1.0])
    assert {name: tuple(value.shape) for name, value in first.moments.items()} == {
        "private_moments.0.step": (),
        "private_moments.0.square": (4,),
        "private_moments.1.step": (),
        "private_moments.1.square": (4, 16),
    }
    before = {name: value.clone() for name, value in first.moments.items()}
    second = LocalFit(forward, attached, EXAMPLES, settings, 1, moments=dict(before))
    second([shift.b, shift.D], lambda: None, [10.0, 1.0])
    assert (float(before["private_moments.1.step"]), float(second.moments["private_moments.1.step"])) == (3, 6)
    # v ← 0.999 v + 0.001 g² never falls below 0.999³ of what was kept.
    assert bool((second.moments["private_moments.1.square"] >= 0.997 * before["private_moments.1.square"]).all())


def test_early_stopping_judges_without_dropout(tiny: Backbone, attached: SiteShifts) -> None:
    modes: list[bool] = []
    settings = FitConfig(epochs=1, batch_size=1, held_out=0.3)
    fit = LocalFit(Forward(tiny, None), attached, EXAMPLES, settings, 0)
    hook = tiny.model.register_forward_pre_hook(lambda *_: modes.append(attached.training))
    fit([attached.shift("collective", "1").b])
    hook.remove()
    # One held-out example before and after the epoch, two steps between.
    assert modes == [False, True, True, False]


def test_early_stopping_keeps_the_start_if_training_only_harms(tiny: Backbone, attached: SiteShifts) -> None:
    shift = attached.shift("collective", "1")
    start = shift.b.detach().clone()
    for share, kept in ((0.3, True), (0.0, False)):
        settings = FitConfig(epochs=2, batch_size=1, lr=1e3, warmup=0, held_out=share)
        result = LocalFit(Forward(tiny, None), attached, EXAMPLES, settings, 0)([shift.b])
        assert torch.equal(shift.b, start) == kept
        # One of three examples is held out.
        assert result.steps == (4 if kept else 6)


def test_a_spent_budget_ends_all_epochs(tiny: Backbone, attached: SiteShifts) -> None:
    judged: list[bool] = []
    times = iter([0.0, 0.5, 2.0, 2.0, 2.0, 2.0, 2.0])
    settings = FitConfig(epochs=5, batch_size=1, held_out=0.3)
    fit = LocalFit(Forward(tiny, None), attached, EXAMPLES, settings, 0, budget_s=1.0, clock=lambda: next(times))
    hook = tiny.model.register_forward_pre_hook(lambda *_: judged.append(not attached.training))
    result = fit([attached.shift("collective", "1").b])
    hook.remove()
    # The first step is always taken, and the second one begins in time; only then is the budget seen to be spent.
    assert result.steps == 2
    # Held-out examples are judged before, after the first epoch, and when the time is over.
    assert sum(judged) == 3


def test_a_loss_of_ones_own_is_averaged_over_examples(tiny: Backbone, attached: SiteShifts) -> None:
    def loss(_forward: object, _adapter: object, batch: Sequence[Example]) -> torch.Tensor:
        return torch.tensor(float(len(batch)))

    fit = LocalFit(Forward(tiny, None), attached, EXAMPLES, FitConfig(), 0, loss_of=loss)
    # Batches of two and of one: (2·2 + 1·1) / 3, however long their answers are.
    assert fit._mean_loss([EXAMPLES[:2], EXAMPLES[2:]]) == pytest.approx(5 / 3)


@pytest.mark.parametrize("count", [1, 3])
def test_the_head_gets_no_view(count: int, tiny: Backbone) -> None:
    # PyTorch's bf16 product of a view is a hundred times slower; one row's view counts as contiguous.
    seen: list[tuple[int, ...]] = []
    head = tiny.model.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _head, inputs: seen.append(inputs[0].stride()))
    Forward(tiny, None).run(None, EXAMPLES[:count], 1)
    hook.remove()
    assert seen == [(16, 16, 1)]
