"""Formats of an exported model: adapters for peft, interventions for pyreft, plain safetensors.

Each writer returns Python code that loads what it wrote. fedperfit never reads these files; those in pyreft's layout
are written by `torch.save`.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from functools import reduce
from pathlib import Path

import torch
from peft import LoraConfig
from safetensors.torch import save_file

from configs.errors import InputError
from fl_clients.backbone.load import find
from simulations.exports.steering import write_edits
from simulations.run.served import ServedModel
from strategies import shifts
from strategies.blocks import name_of_blocks
from strategies.lora.adapters import LoraAdapters
from strategies.lora_reft import LoraAndShifts
from strategies.method import Tensors
from strategies.prompting.notes import Notes
from strategies.shifts.shift import compose
from strategies.shifts.sites import SiteShifts

_LOADER = Path(__file__).parent / "perfit_loader.py"
_EVERYWHERE = 1_000_000_000
_ADD_FACTORS = """\
weights = dict(model.named_parameters())
for module in {name.rpartition(".")[0] for name in factors}:
    weights[f"{module}.weight"].data += factors[f"{module}.B"] @ factors[f"{module}.A"]"""


def write_safetensors(served: ServedModel, out: Path) -> str:
    """Write shifts or edits and their loader, or the adapted modules' A and B, as one safetensors file.

    Raises:
        InputError: The method changes prompts only.
    """
    adapter = served.adapter
    if isinstance(adapter, SiteShifts):
        return _write_shifts(served, adapter, out)
    if isinstance(adapter, LoraAndShifts):
        factors = f"{_write_factors(adapter.lora, out)}\n{_ADD_FACTORS}"
        # Without a user the shift is the identity.
        first = _write_shifts(served, adapter.shifts, out) if served.private else _base(served)
        return f"{first}\n\n{factors}"
    if (snippet := write_edits(served, out)) is not None:
        model = "" if isinstance(adapter, Notes) else _base(served) + "\n"
        return model + snippet
    return _write_factors(_lora(served, "safetensors"), out)


def _write_shifts(served: ServedModel, adapter: SiteShifts, out: Path) -> str:
    positions = adapter.positions
    everywhere = positions.first is None or positions.last is None
    about = {
        "blocks": name_of_blocks(served.backbone.model),
        "sites": json.dumps([int(site) for site in adapter.every_site()]),
        "stages": json.dumps(list(adapter.shifts)),
        "first": str(_EVERYWHERE if everywhere else positions.first),
        "last": str(0 if everywhere else positions.last),
        "spared": str(positions.spared),
    }
    states = [shifts.state(adapter, name, name) for name in adapter.shifts]
    tensors = {name: value for state in states for name, value in state.items()}
    save_file(tensors, out / "shift.safetensors", about)
    shutil.copyfile(_LOADER, out / _LOADER.name)
    return f"""\
from perfit_loader import attach  # the file next to this one; one prompt at a time, without padding
{_base(served)}
undo = attach(model, "shift.safetensors")"""


def _write_factors(adapter: LoraAdapters, out: Path) -> str:
    save_file(_named(adapter.effective(), "{module}.{letter}"), out / "lora.safetensors")
    return """\
from safetensors.torch import load_file

factors = load_file("lora.safetensors")  # for every adapted weight W: W + B @ A"""


def write_peft(served: ServedModel, out: Path) -> str:
    """Write one LoRA adapter for `PeftModel.from_pretrained`; adapters that are summed are stacked into one.

    Raises:
        InputError: The method's adapter is not LoRA.
    """
    factors = _lora(served, "peft").effective()
    ranks = {module: len(A) for module, (A, _) in factors.items()}
    rank = max(ranks.values())
    config = LoraConfig(
        task_type="CAUSAL_LM",
        base_model_name_or_path=served.config.backbone,
        inference_mode=True,
        r=rank,
        # α = r everywhere, since B already includes the scale.
        lora_alpha=rank,
        rank_pattern=ranks,
        alpha_pattern=ranks,
        target_modules=sorted(ranks),
    )
    config.save_pretrained(str(out))
    tensors = _named(factors, "base_model.model.{module}.lora_{letter}.weight")
    save_file(tensors, out / "adapter_model.safetensors", {"format": "pt"})
    return f"""\
from peft import PeftModel
{_base(served)}
model = PeftModel.from_pretrained(model, ".")"""


def write_pyreft(served: ServedModel, out: Path) -> str:
    """Write one LoReFT intervention per site for `pyreft.ReftModel.load`, with the stages composed into one.

    Raises:
        InputError: The method's adapter is not a shift.
    """
    adapter = served.adapter
    if not isinstance(adapter, SiteShifts):
        raise InputError(f"{served.record.method}: the format pyreft is for shifts; {_instead(adapter)}")
    keys, representations = [], []
    for site in adapter.every_site():
        chain = [(shift.R.detach(), shift.W.detach(), shift.b.detach()) for shift in adapter.chain(site)]
        R, W, b = reduce(compose, chain)
        keys.append(f"layer_{site}_comp_block_output_unit_pos_nunit_1#0")
        representations.append([int(site), "block_output", "pos", 1, len(R), *[None] * 9])
        content = {"weight": W, "bias": b, "rotate_layer": R.T.contiguous()}
        torch.save(content, out / f"intkey_{keys[-1]}.bin")
    config = {
        "intervention_constant_sources": [True] * len(keys),
        "intervention_dimensions": [adapter.hidden] * len(keys),
        "intervention_types": ["<class 'pyreft.interventions.LoreftIntervention'>"] * len(keys),
        "mode": "parallel",
        "representations": representations,
        "sorted_keys": keys,
    }
    (out / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    return f"""\
import pyreft, torch
{_base(served)}
reft = pyreft.ReftModel.load(".", model)
for key, intervention in reft.interventions.items():  # pyreft creates them in bf16; these are fp32
    intervention.learned_source.float()
    intervention.load_state_dict(torch.load(f"intkey_{{key}}.bin"))
# unit_locations: the prompt's tokens that positions={served.config.positions} selects"""


FORMATS: dict[str, Callable[[ServedModel, Path], str]] = {
    "peft": write_peft,
    "pyreft": write_pyreft,
    "safetensors": write_safetensors,
}


def _base(served: ServedModel) -> str:
    return f"""\
import os

from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained({place_of(served)})"""


def place_of(served: ServedModel) -> str:
    """Return the argument of `from_pretrained` as code, without the name of whoever exported."""
    where = find(served.config.backbone)
    if isinstance(where, Path) and where.is_relative_to(Path.home()):
        return f"os.path.expanduser({json.dumps(f'~/{where.relative_to(Path.home())}')})"
    name, _, revision = (str(where), "", "") if isinstance(where, Path) else where.partition("@")
    return f"{json.dumps(name)}, revision={json.dumps(revision)}" if revision else json.dumps(str(where))


def _named(factors: Mapping[str, tuple[torch.Tensor, torch.Tensor]], name: str) -> Tensors:
    return {
        name.format(module=module, letter=letter): value.contiguous()
        for module, pair in factors.items()
        for letter, value in zip("AB", pair, strict=True)
    }


def _instead(adapter: object) -> str:
    """Return what to do with an adapter that a format does not take."""
    if isinstance(adapter, Notes):
        return "this method changes prompts, not the model: ask it with `fedperfit chat`"
    if isinstance(adapter, LoraAdapters):
        return "use peft or safetensors"
    return "use pyreft or safetensors" if isinstance(adapter, SiteShifts) else "use safetensors"


def _lora(served: ServedModel, chosen: str) -> LoraAdapters:
    if not isinstance(served.adapter, LoraAdapters):
        raise InputError(
            f"{served.record.method}: the format {chosen} is for LoRA adapters; {_instead(served.adapter)}"
        )
    return served.adapter
