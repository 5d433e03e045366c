"""What is measured where nothing else is asked for: `--quick` takes ten minutes on two cores, `--full` is published.

Quick uses one seed and one learning rate, and says so; its runs are too short to tell methods apart by their loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sparsync.bench.modes.methods import BASELINES, modes

QUICK: Mapping[str, Any] = {
    "modes": ("sync", "delayed", "async", "local"),
    "baselines": tuple(BASELINES),
    "codecs": ("default",),
    "workers": (2,),
    "stragglers": ("none", "slow:1/4"),
    "links": ("unlimited", "100mbit"),
    "lrs": (4e-3,),
    "seeds": (0,),
    "steps": 100,
    "model": "2x64x2",
    "seq_len": 64,
    "batch_size": 4,
    "copies": 10,
}
FULL: Mapping[str, Any] = {
    "modes": modes(),
    "baselines": tuple(BASELINES),
    "codecs": ("default",),
    "workers": (2, 4),
    "stragglers": ("none", "slow:1/1/2/4", "pauses:0.02/2", "stop:30/10"),
    "links": ("unlimited", "100mbit", "10mbit"),
    "lrs": (1e-3, 2e-3, 4e-3),
    "seeds": (0, 1, 2),
    "steps": 2000,
    "model": "4x256x4",
    "seq_len": 128,
    "batch_size": 4,
    "copies": 40,
}
