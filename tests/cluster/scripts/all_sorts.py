"""A model with one of each kind of parameter and buffer that must be coped with."""

import json

import torch
from torch import nn

import sparsync

WORDS, WIDTH, SAMPLES = 500, 24, 64


class AllSorts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH, sparse=True)
        self.extra = nn.Embedding(300, WIDTH)
        self.norm = nn.BatchNorm1d(WIDTH)
        self.low = nn.Linear(WIDTH, WIDTH, dtype=torch.bfloat16)
        self.frozen = nn.Linear(WIDTH, 200)
        self.frozen.requires_grad_(False)
        self.back = nn.Linear(200, WIDTH)
        self.head = nn.Linear(WIDTH, 300, bias=False)
        self.head.weight = self.extra.weight
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = self.norm(self.words(tokens).mean(dim=1))
        hidden = hidden + self.low(hidden.to(torch.bfloat16)).float()
        hidden = hidden + self.back(torch.tanh(self.frozen(hidden)))
        return self.head(nn.functional.dropout(hidden, 0.1, self.training))


class Numbers(torch.utils.data.Dataset):
    """Sample i is drawn anew for each (epoch, i), from the random numbers that the session keys."""

    digest = "numbers"

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.randint(WORDS, (5,)), torch.tensor(index % 300)


model = AllSorts()
before = model.frozen.weight.detach().clone()
optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-2)

probe = torch.arange(40).view(8, 5)

with sparsync.join(model, optimizer) as session:
    session.evaluate(lambda: model(probe).square().mean().item(), every=5)
    for tokens, target in session.batches(Numbers(), batch_size=4):
        loss = nn.functional.cross_entropy(model(tokens), target)
        loss.backward()
        session.step(loss)

if session.is_first and session.out is not None:
    told = {
        "batches": int(model.norm.num_batches_tracked),
        "frozen_moved": float((model.frozen.weight - before).abs().max()),
        "tied": model.head.weight is model.extra.weight,
    }
    (session.out / "buffers.json").write_text(json.dumps(told))
