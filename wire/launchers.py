"""What torchrun, Slurm and others who start processes tell each of its place, in the environment. Pure.

It stands between what is configured and the defaults: a flag wins, then `SPARSYNC_*`, then this. Slurm's variables
count inside a job step only: in the batch script itself they are those of one process, whichever are started there.
docs/launchers.md tells people.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from wire.errors import ConfigError

PORT = 7700
"""Where a coordinator serves if nobody says otherwise."""
STEP = "SLURM_STEP_ID"
TORCHRUN = "TORCHELASTIC_RUN_ID"
"""Set by torchrun, whose own agent listens on MASTER_PORT."""


class Told(NamedTuple):
    """A number, and the variable that tells it."""

    value: int
    origin: str


class Address(NamedTuple):
    """HOST:PORT, and the variables that tell it."""

    value: str
    origin: str


@dataclass(frozen=True)
class Place:
    """One process among those that were started together; None: nobody has told.

    Attributes:
        rank: among all of them, from 0.
        local_rank: among those on this machine.
        world_size: how many there are.
        master: where the first of them is, as the address of a coordinator.
    """

    rank: Told | None = None
    local_rank: Told | None = None
    world_size: Told | None = None
    master: Address | None = None

    @property
    def number(self) -> Told | None:
        """What tells this process from others of its kind."""
        return self.rank if self.rank is not None else self.local_rank

    def named(self, role: str) -> str | None:
        """A name in the run that is this process's alone, and the same when it is started again."""
        return f"{role}-{self.rank.value}" if self.rank is not None else None


def place_in(environ: Mapping[str, str]) -> Place:
    """The place that `environ` tells.

    Raises: ConfigError where a variable is no number, or they contradict each other.
    """
    slurm = STEP in environ
    rank = _number(environ, "RANK", "SLURM_PROCID" if slurm else None)
    world_size = _number(environ, "WORLD_SIZE", "SLURM_NTASKS" if slurm else None)
    if rank is not None and world_size is not None and rank.value >= world_size.value:
        raise ConfigError(
            f"{rank.origin}={rank.value} and {world_size.origin}={world_size.value}: ranks are counted from 0 and end "
            "below the size; set both, or none of them"
        )
    return Place(
        rank=rank,
        local_rank=_number(environ, "LOCAL_RANK", "SLURM_LOCALID" if slurm else None),
        world_size=world_size,
        master=_master(environ),
    )


def master_port(environ: Mapping[str, str]) -> Told | None:
    """The port of the coordinator, where MASTER_PORT tells it: not under torchrun, whose own that is."""
    return None if TORCHRUN in environ else _number(environ, "MASTER_PORT", None)


def _master(environ: Mapping[str, str]) -> Address | None:
    host = environ.get("MASTER_ADDR")
    if not host:
        return None
    port = master_port(environ)
    number, origin = (port.value, "MASTER_ADDR, MASTER_PORT") if port is not None else (PORT, "MASTER_ADDR")
    return Address(f"[{host}]:{number}" if ":" in host else f"{host}:{number}", origin)


def _number(environ: Mapping[str, str], *variables: str | None) -> Told | None:
    """Of the first of `variables` that is set."""
    found = next((name for name in variables if name is not None and environ.get(name)), None)
    if found is None:
        return None
    text = environ[found].strip()
    if not (text.isascii() and text.isdecimal()):
        raise ConfigError(f"{found}={text}: expected a whole number from 0 on; correct it, or unset it")
    return Told(int(text), found)
