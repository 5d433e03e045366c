"""What a machine is examined for: addresses, directory, files, and the coordinator that it is to join.

The coordinator is asked once, by whichever check needs it first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from sparsync.control import Control
from wire.clock import Clock, monotonic_clock, utc_timestamp
from wire.errors import SparsyncError
from wire.rpc.identity import Security
from wire.rpc.status import FarBuild

ASK_S = 5.0


@dataclass(frozen=True)
class Asked:
    """The coordinator's answer, or why there is none; our wall clock just before and behind the call."""

    status: Mapping[str, Any] | None
    error: SparsyncError | None
    sent: datetime
    received: datetime
    took_s: float

    @property
    def build(self) -> FarBuild | None:
        """What it said of itself, in its status or as it refused to show that."""
        if self.status is None:
            return FarBuild.of(self.error) if self.error is not None else None
        version, at = self.status.get("version"), self.status.get("at")
        protocol = self.status.get("protocol_version")
        if not (isinstance(version, str) and isinstance(protocol, int) and isinstance(at, str)):
            return None
        return FarBuild(version, protocol, at)


@dataclass(frozen=True)
class Node:
    """One machine, and what is to run on it.

    Attributes:
        name: of the process in the run, which its certificate has to cover.
        script: what a worker is to run.
    """

    coordinator: str | None = None
    listen: tuple[str, ...] = ()
    advertise: str | None = None
    data_dir: Path = Path()
    security: Security = field(default_factory=Security)
    name: str | None = None
    script: Path | None = None
    environ: Mapping[str, str] = field(default_factory=dict)
    clock: Clock = monotonic_clock

    @cached_property
    def asked(self) -> Asked | None:
        """None where there is no coordinator to ask."""
        if self.coordinator is None:
            return None
        return asyncio.run(self._ask(self.coordinator))

    async def _ask(self, address: str) -> Asked:
        sent, begun = wall_clock(), self.clock.now()
        status: Mapping[str, Any] | None = None
        error: SparsyncError | None = None
        try:
            async with Control(address, self.security) as control:
                sent, begun = wall_clock(), self.clock.now()
                status = await control.status(timeout_s=ASK_S)
        except SparsyncError as problem:
            error = problem
        return Asked(status, error, sent, wall_clock(), self.clock.now() - begun)


def wall_clock() -> datetime:
    """This machine's, UTC."""
    return datetime.fromisoformat(utc_timestamp())
