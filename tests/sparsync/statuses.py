"""What a run says of itself (docs/status.md): in a synchronous segment, and in an elastic one."""

from __future__ import annotations

from typing import Any

SYNC: dict[str, Any] = {
    "run": "r1",
    "mode": "sync",
    "segment": 0,
    "state": "running",
    "step": 120,
    "clock": 120,
    "total_steps": 400,
    "loss": 2.91342,
    "val_loss": 2.87,
    "val_loss_step": 100,
    "tokens_per_s": 18234.0,
    "bytes_pushed": 24_100_000,
    "bytes_pulled": 20_900_000,
    "bytes_dense": 1_080_000_000,
    "staleness": {"0": 480},
    "mass_returned": 0.0,
    "mass_lost": 0.0,
    "units_owed": 0,
    "switching": None,
    "stragglers": [],
    "workers": [
        {
            "name": "worker-0",
            "state": "computing",
            "streams": [0, 1],
            "leases": None,
            "units": 240,
            "unit_s": 0.21,
            "tokens_per_s": 9100.0,
            "wait_share": 0.07,
            "beat_age_s": 0.3,
            "residual_norm": 0.0,
            "staleness": None,
            "straggler": False,
        },
        {"name": "worker-1", "state": "dead", "streams": []},
    ],
    "servers": [
        {
            "shard": 0,
            "name": "ps-0",
            "address": "127.0.0.1:4001",
            "version": 120,
            "blocks": 390,
            "delta_bytes": 7,
        }
    ],
}
ASYNC: dict[str, Any] = {
    **SYNC,
    "mode": "async",
    "segment": 2,
    "clock": 117,
    "staleness": {"0": 400, "1": 60, "2": 20},
    "mass_returned": 3.25,
    "mass_lost": 0.125,
    "units_owed": 4,
    "switching": "sync",
    "stragglers": ["worker-0"],
    "workers": [
        {
            **SYNC["workers"][0],
            "streams": [],
            "leases": 36,
            "residual_norm": 1.75,
            "bytes_pushed": 12_000_000,
            "bytes_pulled": 9_000_000,
            "staleness": 0.208,
            "straggler": True,
        }
    ],
}
