"""What rank 0 of a baseline leaves: events.jsonl and summary.json with the keys of a cluster's."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from torch import nn

from wire.clock import monotonic_clock


class Ledger:
    """Lines with `s`, seconds since its making, and `event`; the summary at the end."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        self._directory = directory
        self._file = (directory / "events.jsonl").open("w", buffering=1)
        self._started = monotonic_clock.now()
        self._tokens = self._steps = 0
        self._loss = 0.0

    def write(self, event: str, **fields: Any) -> None:
        seconds = round(monotonic_clock.now() - self._started, 3)
        self._file.write(json.dumps({"s": seconds, "event": event, **fields}) + "\n")

    def step(self, step: int, loss: float, tokens: int) -> None:
        self._steps, self._loss, self._tokens = step + 1, loss, self._tokens + tokens
        self.write("step", step=step, loss=loss, tokens=tokens)

    def finish(self, loss: float, *, model: nn.Module, units_settled: int, **figures: Any) -> None:
        """loss: of validation. figures: as in a run's summary (docs/status.md)."""
        for name in ("published", "x"):
            self.write("evaluated", step=self._steps, model=name, loss=loss, seconds=0.0)
        digest = params_digest(model)
        summary = {
            "steps": self._steps,
            "tokens": self._tokens,
            "wall_s": round(monotonic_clock.now() - self._started, 3),
            "train_loss": self._loss,
            "val_loss": loss,
            "val_loss_server": loss,
            "params_digest": digest,
            "published_digest": digest,
            "pure": True,
            "units_settled": units_settled,
            "units_empty": 0,
            "staleness": {"0": units_settled},
            "mass_returned": 0.0,
            "bytes_state": 0,
            "recoveries": 0,
            "restarts": 0,
            **figures,
        }
        (self._directory / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")


def params_digest(model: nn.Module) -> str:
    """sha256 over the parameters as little-endian fp32, in `named_parameters()` order."""
    content = hashlib.sha256()
    for _, parameter in model.named_parameters():
        content.update(parameter.detach().cpu().numpy().astype("<f4").tobytes())
    return content.hexdigest()
