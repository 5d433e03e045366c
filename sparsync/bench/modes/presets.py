"""What is measured where nothing else is asked for: `--quick` takes ten minutes on two cores, `--full` is published.

Quick uses one seed, one learning rate and little held-out text, and says so; its runs are too short to tell methods
apart by their loss. Full is made of parts, each a grid of its own that answers one question.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sparsync.bench.modes.methods import BASELINES, modes

QUICK: Mapping[str, Any] = {
    "modes": ("sync", "delayed", "async", "local"),
    "baselines": (*BASELINES, "ddp+muon=1"),
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
    "windows": 128,
    "unit_s": 0.0,
}
COMMON: Mapping[str, Any] = {
    "codecs": ("default",),
    "stragglers": ("none",),
    "links": ("unlimited",),
    "lrs": (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2),
    "seeds": (0, 1, 2),
    "steps": 2000,
    "model": "4x256x4",
    "seq_len": 128,
    "batch_size": 4,
    "copies": 40,
    "windows": 256,
    "unit_s": 0.0,
}
ALL = (*BASELINES, "ddp+muon=1", "diloco+muon=1")
"""Baselines; two of them with the optimizer of local steps as well."""
LONG_UNIT_S = 0.8
"""Of a unit where workers are made slow: longer than it computes, so that few cores can show four machines."""
SLOWLY = "optimizer.warmup_steps=200"
"""Late units bear no high learning rate early (docs/numerics.md). `sync` beside them has the same, `one` has not."""
FULL: Mapping[str, Mapping[str, Any]] = {
    "scaling": {"modes": modes(), "baselines": ALL, "workers": (2, 4)},
    "links": {
        "modes": modes(),
        "baselines": ALL,
        "workers": (2,),
        "links": ("unlimited", "100mbit", "10mbit"),
    },
    "codecs": {
        "modes": ("sync",),
        "codecs": ("dense", "int8", "int4", "default"),
        "baselines": ("one", "ddp"),
        "workers": (4,),
    },
    "stragglers": {
        "modes": modes(),
        "baselines": ("one", "ddp", "ddp+muon=1", "diloco"),
        "workers": (4,),
        "stragglers": ("none", "slow:4/4/2/1", "pauses:0.02/2", "stop:30/10"),
        "unit_s": LONG_UNIT_S,
    },
    "speeds": {
        "modes": (f"sync:sync+{SLOWLY}", f"async:async+{SLOWLY}"),
        "baselines": ("one",),
        "workers": (4,),
        "stragglers": ("slow:4/4/2/1",),
        "unit_s": LONG_UNIT_S,
    },
    "quorum": {
        "modes": (f"sync:sync+{SLOWLY}", f"quorum:sync+sync.quorum=3+sync.deadline_s=0.5+{SLOWLY}"),
        "baselines": ("one",),
        "workers": (4,),
        "stragglers": ("slow:1/1/1/5",),
        "unit_s": LONG_UNIT_S,
    },
}
"""Part -> what differs from `COMMON`. `speeds`: a worker that takes 4 times as long has a quarter of the speed, so
these are speeds of 1:1:2:4; rates are tuned where they are compared."""


def full(part: str) -> dict[str, Any]:
    """The whole preset of a part."""
    return {**COMMON, **FULL[part]}
