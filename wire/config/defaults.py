"""A configuration with a value for every key that depends on others (wire/config/arithmetic.py)."""

from __future__ import annotations

from typing import Any

from wire.config.arithmetic import BY_ARITHMETIC, default_of
from wire.config.tree import Config


def complete(config: Config) -> Config:
    """`config` with a value for each key of the table."""
    sections: dict[str, dict[str, Any]] = {}
    for key in BY_ARITHMETIC:
        section, _, name = key.partition(".")
        if getattr(getattr(config, section), name) is None:
            late = config.sync.mode == "delayed"
            value = default_of(key, local=config.sync.is_local, late=late)
            sections.setdefault(section, {})[name] = value
    changed = {s: getattr(config, s).model_copy(update=values) for s, values in sections.items()}
    return config.model_copy(update=changed) if changed else config
