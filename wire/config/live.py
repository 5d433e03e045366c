"""Live keys: what `sparsync set` may change while a run goes on."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ValidationError

from wire.config.schema import SyncConfig
from wire.config.sources import DEFAULT, from_flags
from wire.config.tree import Config, fields
from wire.config.words import explain
from wire.errors import ConfigError

LIVE = ("sync.mode", "sync.staleness", "sync.quorum", "sync.deadline_s")
"""The keys that may change while a run goes on."""


def amend(config: Config, settings: Mapping[str, str]) -> Config:
    """`config` with live `settings` (`section.key` -> text) changed. A new mode drops what only the old one read.

    Raises: ConfigError for a key that is not live, or a value that does not fit.
    """
    changes = from_flags([f"{key}={value}" for key, value in settings.items()])
    frozen = [key for key, _, _ in changes if key not in LIVE]
    if frozen:
        raise ConfigError(
            f"{', '.join(frozen)}: fixed for the whole run; live keys are {', '.join(LIVE)}. Stop the run and resume "
            "it with another value"
        )
    tree = config.model_dump()
    if any(key == "sync.mode" and value != config.sync.mode for key, value, _ in changes):
        tree["sync"] |= {"staleness": None, "quorum": None}
    origins = dict.fromkeys((key for key, _ in fields()), DEFAULT)
    for key, value, origin in changes:
        tree["sync"][key.partition(".")[2]] = value
        origins[key] = origin
    if config.sync.is_local and tree["sync"]["local_steps"] is None:
        tree["sync"]["local_steps"] = config.sync.steps_a_round  # of the run, not of the mode
    try:
        sync = SyncConfig.model_validate(tree["sync"])
        if sync.is_local != config.sync.is_local:
            raise ConfigError(_other_arithmetic(config.sync, sync))
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(explain(error, dict(fields()), origins, DEFAULT)) from None


def _other_arithmetic(now: SyncConfig, wanted: SyncConfig) -> str:
    before, after = ("the workers" if sync.is_local else "the servers" for sync in (now, wanted))
    return (
        f"sync.mode={wanted.mode}: {before} run the optimizer in this run, for its whole length; there {after} would. "
        f"Write a checkpoint and train on from it with `--resume` and `-s sync.mode={wanted.mode}`"
    )
