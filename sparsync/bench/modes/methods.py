"""What is compared: modes of the cluster, each a few keys of its configuration, and baselines in plain PyTorch.

A method is written `[ALIAS:]NAME[+key=value]…`; the alias, or all of it, is what tables call it. For a mode the keys
are those of the configuration, so that a mode is known here as soon as `sync.mode` knows it; for a baseline those of
its defaults below.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from wire.config import SyncConfig, load
from wire.errors import UsageError

CLUSTER, ONE = "cluster", "one"
BASELINES: Mapping[str, Mapping[str, float]] = {
    "one": {"muon": 0},
    "ddp": {"muon": 0, "bucket_mb": 0},
    "ddp-fp16": {"muon": 0, "bucket_mb": 0},
    "ddp-powersgd": {"muon": 0, "bucket_mb": 0, "rank": 4, "start": 2},
    "diloco": {"muon": 0, "local_steps": 15, "outer_lr": 0.7, "outer_momentum": 0.9},
}
"""Name -> its own keys. `one`: one process. `muon`: whether Muon steps the hidden matrices, as with local steps here,
or AdamW all. `bucket_mb`: of gradients that DDP sends at once, while backward goes on; 0: as torch has it, 1 and then
25. `start`: the iteration at which PowerSGD begins; 2 is the earliest that torch allows, as DDP builds its buckets anew
before."""
WHOLE = ("push.codec=dense", "pull.codec=dense")
CODECS: Mapping[str, tuple[str, ...]] = {
    "default": (),
    "dense": WHOLE,
    "bf16": (*WHOLE, "push.values=bf16", "pull.values=bf16"),
    "int8": (*WHOLE, "push.values=int8", "pull.values=int8"),
    "int4": (*WHOLE, "push.values=int4", "pull.values=int4"),
    "mxint4": (*WHOLE, "push.values=mxint4", "pull.values=mxint4"),
}
"""Name -> keys of the configuration."""
NO_CODEC = "none"
"""Of a baseline."""


@dataclass(frozen=True)
class Method:
    """One of them, as it was asked for.

    Attributes:
        name: with its keys, as it stands in tables.
        kind: `CLUSTER`, or a name of `BASELINES`.
        settings: `section.key=value` of a cluster; `key=value` of a baseline, defaults included.
    """

    name: str
    kind: str
    settings: tuple[str, ...]

    @property
    def is_cluster(self) -> bool:
        return self.kind == CLUSTER

    @property
    def alone(self) -> bool:
        """Whether there is nobody to wait for: one case serves all numbers of workers, links and stragglers."""
        return self.kind == ONE


def modes() -> tuple[str, ...]:
    """What `sync.mode` can be."""
    return tuple(get_args(SyncConfig.model_fields["mode"].annotation))


def named(text: str) -> tuple[str, str, list[str]]:
    """(what tables call it, name, keys)."""
    name, *keys = text.split("+")
    alias, _, name = name.rpartition(":")
    return alias or text, name, keys


def mode(text: str) -> Method:
    """Raises: UsageError, ConfigError."""
    called, name, keys = named(text)
    if name not in modes():
        raise UsageError(f"--modes {text}: no mode {name!r}; expected one of {', '.join(modes())}")
    settings = (f"sync.mode={name}", *keys)
    load(None, settings, {})
    return Method(called, CLUSTER, settings)


def baseline(text: str) -> Method:
    """Raises: UsageError."""
    called, name, keys = named(text)
    if name not in BASELINES:
        raise UsageError(f"--baselines {text}: no baseline {name!r}; expected one of {', '.join(BASELINES)}")
    values = dict(BASELINES[name])
    for key in keys:
        word, _, value = key.partition("=")
        if word not in values:
            known = ", ".join(values) or "none at all"
            raise UsageError(f"--baselines {text}: {name} has no key {word!r}; expected {known}")
        try:
            values[word] = float(value)
        except ValueError:
            raise UsageError(f"--baselines {text}: {word} = {value!r}; expected a number") from None
    return Method(called, name, tuple(f"{word}={value:g}" for word, value in values.items()))


def codec(text: str) -> tuple[str, tuple[str, ...]]:
    """(what tables call it, keys of the configuration). Raises: UsageError, ConfigError."""
    called, name, keys = named(text)
    if name not in CODECS:
        raise UsageError(f"--codecs {text}: no codec {name!r}; expected one of {', '.join(CODECS)}")
    settings = (*CODECS[name], *keys)
    load(None, settings, {})
    return called, settings


def words(texts: Iterable[str]) -> list[str]:
    """The words of lists with commas; those inside brackets part nothing."""
    found = [""]
    for text in texts:
        depth = 0
        for letter in text + ",":
            depth += (letter == "[") - (letter == "]")
            if letter == "," and depth == 0:
                found.append("")
            else:
                found[-1] += letter
    return [word.strip() for word in found if word.strip()]


def values(settings: Sequence[str]) -> dict[str, float]:
    """The keys of a baseline as numbers."""
    return {key: float(json.loads(value)) for key, _, value in (s.partition("=") for s in settings)}
