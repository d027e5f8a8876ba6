"""Measures one training step of `pyreft`, in a separate environment, since it needs an older transformers.

Run by `fedperfit bench --pyreft PYTHON`; does not import fedperfit. Reads its input from standard input as JSON: the
model's folder, tokenised examples with the length of their prompts, sites, rank, first and last positions, repeats,
threads. Prints the median seconds of a step as JSON. There is one LoReFT intervention per site; PerFit has two.
"""

import json
import statistics
import sys
import time

import pyreft
import torch
from transformers import AutoModelForCausalLM


def main() -> None:
    """Measure a step; see the module's docstring."""
    work = json.load(sys.stdin)
    torch.set_num_threads(work["threads"])
    model = AutoModelForCausalLM.from_pretrained(work["model"], torch_dtype=torch.float32)
    hidden = model.config.hidden_size

    def representation(site: int) -> dict[str, object]:
        intervention = pyreft.LoreftIntervention(embed_dim=hidden, low_rank_dimension=work["rank"], dtype=torch.float32)
        return {
            "layer": site,
            "component": "block_output",
            "low_rank_dimension": work["rank"],
            "intervention": intervention,
        }

    config = pyreft.ReftConfig(representations=[representation(site) for site in work["sites"]])
    adapted = pyreft.get_reft_model(model, config)
    adapted.set_device("cpu")
    trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    ids = torch.tensor(work["tokens"])
    labels = ids.clone()
    labels[:, : work["prompt"]] = -100
    places = [*range(work["first"]), *range(work["prompt"] - work["last"], work["prompt"])]
    locations = [[places] * len(ids)] * len(work["sites"])

    def step() -> float:
        _, output = adapted(
            {"input_ids": ids, "attention_mask": torch.ones_like(ids)},
            unit_locations={"sources->base": (None, locations)},
            labels=labels,
        )
        torch.autograd.grad(output.loss, trained)
        return float(output.loss)

    times = []
    for repeat in range(work["repeats"] + 1):
        started = time.perf_counter()
        loss = step()
        if repeat:  # the first step warms up
            times.append(time.perf_counter() - started)
    print(json.dumps({"seconds": statistics.median(times), "loss": loss}))


if __name__ == "__main__":
    main()
