"""Text from a trained model: one byte after the other, drawn from its predicted distribution."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsync.lm.model import GPT


@torch.no_grad()
def generate(
    model: GPT, prompt: bytes, length: int, temperature: float = 0.8, generator: torch.Generator | None = None
) -> bytes:
    """The prompt and `length` bytes after it; a seeded generator gives the same text again.

    p(next) = softmax(logits / temperature); at temperature 0 the most probable byte. Draws happen on the
    CPU, so one seed means one text on any device up to rounding. The model's mode is put back afterwards.
    Raises: ValueError for an empty prompt or a negative temperature.
    """
    if not prompt or temperature < 0:
        raise ValueError(
            f"prompt of {len(prompt)} bytes, temperature {temperature}: need one byte and at least 0"
        )
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    tokens = list(prompt)
    for _ in range(length):
        context = torch.tensor([tokens[-model.context :]], device=device)
        logits = model(context)[0, -1].float().cpu()
        tokens.append(_draw(logits, temperature, generator))
    model.train(was_training)
    return bytes(tokens)


def _draw(logits: Tensor, temperature: float, generator: torch.Generator | None) -> int:
    """One token from logits (V,)."""
    if temperature == 0:
        return int(logits.argmax())
    return int(torch.multinomial(torch.softmax(logits / temperature, 0), 1, generator=generator))
