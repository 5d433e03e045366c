"""A dataset that tells which samples were seen, loaded by a process of its own; units of two batches."""

import json
import os
from typing import Any

import torch
from torch import nn

import sparsync


class Squares:
    """Sample i is i, and the process that loaded it."""

    def __len__(self) -> int:
        return 1003

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"index": index, "pid": os.getpid()}


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """A batch of another form than torch's own."""
    return {
        "x": torch.tensor([[s["index"] / 1003] for s in samples]),
        "samples": [s["index"] for s in samples],
        "pids": {s["pid"] for s in samples},
    }


def main() -> None:
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    with sparsync.join(model, optimizer) as session:
        assert session.out is not None
        seen = (session.out / f"seen-{os.getpid()}.jsonl").open("w", buffering=1)
        unit: list[int] = []
        for batch in session.batches(
            Squares(), batch_size=8, accumulate=2, collate_fn=collate, num_workers=1
        ):
            assert os.getpid() not in batch["pids"], "the loader is a process of its own"
            unit += batch["samples"]
            loss = nn.functional.mse_loss(model(batch["x"]), batch["x"] ** 2)
            (loss / 2).backward()
            if not session.boundary:
                continue
            line = {"epoch": session.epoch, "step": session.clock, "stream": session.stream, "samples": unit}
            seen.write(json.dumps(line) + "\n")
            session.step(loss)
            unit = []


if __name__ == "__main__":
    main()
