"""One client's work, as every peer does it: a step of LoRA on the client's examples.

Imports only PyTorch, transformers and peft, because it also runs in the peers' own environments.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

LR = 1e-2


def read_users(path: Path, count: int) -> list[list[list[str]]]:
    """Return each client's examples, pairs of prompt and answer; clients beyond the file's begin anew."""
    with path.open(encoding="utf-8") as file:
        users = [json.loads(line) for line in file]
    return [users[number % len(users)] for number in range(count)]


class Work:
    """The backbone with one LoRA adapter on q, k and v of every block."""

    def __init__(self, backbone: Path) -> None:
        """Load the backbone."""
        torch.set_num_threads(1)
        self.tokenizer = AutoTokenizer.from_pretrained(backbone)
        model = AutoModelForCausalLM.from_pretrained(backbone, dtype=torch.float32)
        config = LoraConfig(r=2, lora_alpha=2, target_modules=["q_proj", "k_proj", "v_proj"])
        self.model: Any = get_peft_model(model, config)
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def state(self) -> list[np.ndarray]:
        """Return the adapter's tensors."""
        return [parameter.detach().numpy().copy() for parameter in self.parameters]

    def load(self, tensors: list[np.ndarray]) -> None:
        """Set the adapter's tensors."""
        with torch.no_grad():
            for parameter, value in zip(self.parameters, tensors, strict=True):
                parameter.copy_(torch.from_numpy(value))

    def batch(self, examples: list[list[str]]) -> dict[str, torch.Tensor]:
        """Tokenise examples; only answers have labels."""
        rows = []
        for prompt, answer in examples:
            question = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
            rows.append((question, [*self.tokenizer(answer, add_special_tokens=False)["input_ids"], 0]))
        length = max(len(question) + len(answer) for question, answer in rows)
        tokens, mask = torch.zeros(len(rows), length, dtype=torch.long), torch.zeros(len(rows), length)
        labels = torch.full((len(rows), length), -100)
        for row, (before, after) in enumerate(rows):
            end = len(before) + len(after)
            tokens[row, :end] = torch.tensor(before + after)
            labels[row, len(before) : end] = torch.tensor(after)
            mask[row, :end] = 1
        return {"input_ids": tokens, "attention_mask": mask, "labels": labels}

    def train(self, examples: list[list[str]]) -> None:
        """Take one step of AdamW on all examples."""
        optimizer = torch.optim.AdamW(self.parameters, lr=LR)
        self.model(**self.batch(examples)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
