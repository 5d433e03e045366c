"""Checkpoints as small as they can be."""

from __future__ import annotations

from pathlib import Path

from wire.checkpoint import CheckpointWriter

TENSOR = ("weight", "F32", (3,))


def write_checkpoint(run: Path, step: int, *, timeline: int = 1) -> Path:
    """A whole checkpoint in a run directory."""
    writer = CheckpointWriter(run / "checkpoints", step)
    file = writer.file("model.safetensors", [TENSOR], {})
    file.write(0, bytes(12))
    file.close()
    return writer.commit({"run": "r1", "timeline": timeline, "config_digest": "", "layout": []})
