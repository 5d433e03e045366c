"""Train the byte-level GPT on the run's corpus: what `sparsync train` runs where no script is named.

An ordinary user script: it uses the public API and this package, and nothing that another script could not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

import sparsync
from sparsync.lm.corpus import prepare
from sparsync.lm.dataset import TokenDataset, validation_batches, validation_loss
from sparsync.lm.model import GPT
from sparsync.lm.sample import generate
from sparsync.optim import CombinedOptimizer

if TYPE_CHECKING:
    from wire.config import Config, OptimizerConfig

CLIP_NORM = 1.0
SAMPLE_PROMPT = b"def "
SAMPLE_BYTES = 300


def main() -> None:
    config = sparsync.config()
    text = prepare(config.data.source, config.data.cache_dir)
    dataset = TokenDataset(text.train, config.data.seq_len)
    held_out = validation_batches(text.val, config.data.seq_len)
    model = GPT(config.model.layers, config.model.width, config.model.heads, context=config.data.seq_len)
    optimizer = build_optimizer(model, config.optimizer)
    scheduler = build_scheduler(optimizer, config.optimizer, total_steps=planned_steps(config, len(dataset)))

    with sparsync.join(model, optimizer, scheduler=scheduler) as session:
        session.evaluate(lambda: validation_loss(model, held_out), every=config.run.eval_every)
        for x, y in session.batches(dataset, batch_size=config.data.batch_size):
            _, loss = model(x, y)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
            session.step(loss, tokens=y.numel())

    if session.is_first and session.out is not None:
        write_sample(model, session.out / "sample.txt", seed=config.run.seed)


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """AdamW, SGD whose momentum is betas[0], or Muon with AdamW; weight decay for matrices, none for biases and norms.

    Muon (torch's, its momentum too) steps the matrices that are no embedding, AdamW the rest; at one learning rate
    both move their parameters as far (arXiv 2502.16982).
    """
    assert config.lr is not None, "of a complete configuration"
    if config.name == "sgd":
        return torch.optim.SGD(_groups(model.parameters(), config), lr=config.lr, momentum=config.betas[0])
    embeddings = {p for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    hidden = [p for p in model.parameters() if p.dim() == 2 and p not in embeddings]
    taken = set(hidden) if config.name == "muon" else set[nn.Parameter]()
    rest = _groups((p for p in model.parameters() if p not in taken), config)
    adamw = torch.optim.AdamW(rest, lr=config.lr, betas=config.betas, fused=True)
    if not taken:
        return adamw
    muon = torch.optim.Muon(
        hidden, lr=config.lr, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    return CombinedOptimizer(muon, adamw)


def _groups(parameters: Iterable[nn.Parameter], config: OptimizerConfig) -> list[dict[str, Any]]:
    matrices, vectors = list[nn.Parameter](), list[nn.Parameter]()
    for p in parameters:
        (matrices if p.dim() >= 2 else vectors).append(p)
    return [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]


def build_scheduler(
    optimizer: torch.optim.Optimizer, config: OptimizerConfig, *, total_steps: int
) -> LambdaLR:
    """The learning rate as a share of its peak at each step: linear warm-up, then the shape that is configured."""
    return LambdaLR(optimizer, lambda step: share_of_peak(step, config, total_steps=total_steps))


def share_of_peak(step: int, config: OptimizerConfig, *, total_steps: int) -> float:
    """At step t: min((t + 1) / warmup, floor + (1 - floor) s(q)), s of `SHAPES`.

    q is the share of the steps after warm-up that are behind, 1 from `total_steps` on.
    """
    warmup, floor = config.warmup_steps, config.min_lr_ratio
    progress = min(1.0, max(0, step - warmup) / max(1, total_steps - warmup))
    falling = floor + (1 - floor) * SHAPES[config.schedule](progress)
    return min((step + 1) / max(1, warmup), falling)


SHAPES: Mapping[str, Callable[[float], float]] = {
    "cosine": lambda q: (1 + math.cos(math.pi * q)) / 2,
    "linear": lambda q: 1 - q,
    "constant": lambda q: 1.0,
}
"""How far above its floor the learning rate stands behind a share q of the way: from 1 to 0, or 1 throughout."""


def planned_steps(config: Config, samples: int) -> int:
    """Steps of the whole run; an epoch's last step may be short, since units never span epochs."""
    if config.run.epochs is None:
        return config.run.steps
    return config.run.epochs * math.ceil(samples / (config.data.batch_size * config.sync.units_per_step))


def write_sample(model: GPT, path: Path, *, seed: int) -> None:
    """Text that the trained model continues from `SAMPLE_PROMPT`; the same for equal models and seeds."""
    generator = torch.Generator().manual_seed(seed)
    text = generate(model, SAMPLE_PROMPT, SAMPLE_BYTES, generator=generator)
    path.write_text(readable(text))


def readable(text: bytes) -> str:
    """Text that is safe on a terminal: whatever is no printable character, tab or line end becomes U+FFFD."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text.decode(errors="replace"))


if __name__ == "__main__":
    main()
