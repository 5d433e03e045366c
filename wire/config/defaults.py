"""A configuration with a value for every key that depends on others (wire/config/arithmetic.py)."""

from __future__ import annotations

from typing import Any, Literal

from wire.config.arithmetic import BY_ARITHMETIC, default_of
from wire.config.tree import Config
from wire.config.updates import PullConfig, PushConfig, chosen


def complete(config: Config) -> Config:
    """`config` with codecs in place of "auto", and with a value for each key of the table."""
    sections: dict[str, dict[str, Any]] = {
        "push": _codec("push", config),
        "pull": _codec("pull", config),
    }
    for key in BY_ARITHMETIC:
        section, _, name = key.partition(".")
        found = sections.setdefault(section, {})
        if found.get(name, getattr(getattr(config, section), name)) is None:
            found[name] = default_of(key, local=config.sync.is_local)
    changed = {s: getattr(config, s).model_copy(update=values) for s, values in sections.items() if values}
    return config.model_copy(update=changed)


def _codec(section: Literal["push", "pull"], config: Config) -> dict[str, Any]:
    """What "auto" stands for; steps are coarse where nobody chose values."""
    way: PushConfig | PullConfig = getattr(config, section)
    codec, values, by_default = chosen(way)
    if by_default:
        values = default_of(f"{section}.values", local=config.sync.is_local)
    fine = {} if by_default or way.coarse is not None else {"coarse": 1.0}
    return {"codec": codec, "values": values, **fine}
