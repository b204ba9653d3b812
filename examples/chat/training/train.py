"""Trains the network: first to copy, then to answer. A fixed number of steps from fixed seeds, on one thread."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from examples.chat.training import batches
from examples.chat.training.batches import Batch
from examples.chat.training.model import ChatModel, Shape

Report = Callable[[str], None]
SHORT_COPY: Final = 8  # tokens
LONG_COPY: Final = 32


@dataclass(frozen=True)
class Schedule:
    """How long and how fast. Rates rise over `warmup_steps` and then fall along a cosine."""

    short_copy_steps: int = 300
    long_copy_steps: int = 150
    copy_tokens_per_batch: int = 1024
    talk_steps: int = 8000
    talk_tokens_per_batch: int = 2048
    rate: float = 6e-3
    matrix_rate: float = 8e-3
    warmup_steps: int = 60
    last_rate_share: float = 0.02
    largest_gradient: float = 1.0
    seed: int = 1
    report_every_steps: int = 50

    @property
    def steps(self) -> int:
        return self.short_copy_steps + self.long_copy_steps + self.talk_steps

    def rate_share(self, step: int) -> float:
        fall = 0.5 * (1 + math.cos(math.pi * step / self.steps))
        return min(1.0, (step + 1) / self.warmup_steps) * (self.last_rate_share + (1 - self.last_rate_share) * fall)


def train(tokenizer: Tokenizer, shape: Shape, schedule: Schedule, report: Report = print) -> ChatModel:
    """Returns the trained network. Every run on one kind of machine does the same arithmetic."""
    torch.manual_seed(schedule.seed)
    torch.set_num_threads(1)
    model = ChatModel(shape)
    report(f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters, {schedule.steps:,} steps")
    optimizers = _optimizers(model, schedule)
    began, recent = time.monotonic(), 0.0
    for step, batch in enumerate(_lessons(tokenizer, shape, schedule)):
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["full_rate"] * schedule.rate_share(step)
        loss = _loss(model, batch)
        model.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), schedule.largest_gradient)
        for optimizer in optimizers:
            optimizer.step()
        recent = 0.95 * recent + 0.05 * loss.item() if step else loss.item()
        if (step + 1) % schedule.report_every_steps == 0 or step + 1 == schedule.steps:
            spent = time.monotonic() - began
            left = spent / (step + 1) * (schedule.steps - step - 1)
            report(f"step {step + 1}/{schedule.steps}  loss {recent:.4f}  {spent:.0f} s spent, about {left:.0f} s left")
    model.eval()
    return model


def _lessons(tokenizer: Tokenizer, shape: Shape, schedule: Schedule) -> Iterator[Batch]:
    for steps, longest in ((schedule.short_copy_steps, SHORT_COPY), (schedule.long_copy_steps, LONG_COPY)):
        copying = batches.copies(schedule.seed, shape.vocabulary, schedule.copy_tokens_per_batch, longest)
        yield from itertools.islice(copying, steps)
    yield from itertools.islice(
        batches.talks(schedule.seed, tokenizer, schedule.talk_tokens_per_batch), schedule.talk_steps
    )


def _loss(model: ChatModel, batch: Batch) -> Tensor:
    """Cross entropy of the spoken tokens only, each counted once."""
    spoken = batch.spoken[:, 1:]
    states = model.states(batch.tokens[:, :-1])[spoken]
    return functional.cross_entropy(functional.linear(states, model.token_embd.weight), batch.tokens[:, 1:][spoken])


def _optimizers(model: ChatModel, schedule: Schedule) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside of the layers, AdamW for the embedding and the norms."""
    matrices = [parameter for parameter in model.blk.parameters() if parameter.dim() == 2]
    others = [parameter for parameter in model.parameters() if parameter.dim() == 1] + [model.token_embd.weight]
    groups = [{"params": others, "weight_decay": 0.0, "full_rate": schedule.rate}]
    matrix_groups = [{"params": matrices, "full_rate": schedule.matrix_rate}]
    return [
        torch.optim.AdamW(groups, lr=schedule.rate, betas=(0.9, 0.98)),
        torch.optim.Muon(
            matrix_groups, lr=schedule.matrix_rate, momentum=0.95, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"
        ),
    ]
