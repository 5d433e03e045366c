"""The configuration: one tree, checked once, the same in every process of a run.

Precedence: default < file (TOML) < environment (`SPARSYNC_SECTION__KEY`) < flag (`-s section.key=value`).
Frozen after loading; the coordinator sends it to the other roles as JSON. `schema.py` says what each key is
(`updates.py` those of compression), `tree.py` holds all of them, `arithmetic.py` and `defaults.py` complete what
depends on others, `sources.py` loads them, `live.py` changes the few that may change in a run, `words.py` puts
keys, values and faults in words.
"""

from wire.config.defaults import complete
from wire.config.live import amend
from wire.config.schema import DataConfig, OptimizerConfig, RunConfig, SecurityConfig, SyncConfig
from wire.config.sources import DEFAULT, ENV_PREFIX, Loaded, environment, load
from wire.config.tree import Config, fields, sections
from wire.config.updates import PullConfig, PushConfig
from wire.config.words import accepts, toml_value

__all__ = [
    "DEFAULT",
    "ENV_PREFIX",
    "Config",
    "DataConfig",
    "Loaded",
    "OptimizerConfig",
    "PullConfig",
    "PushConfig",
    "RunConfig",
    "SecurityConfig",
    "SyncConfig",
    "accepts",
    "amend",
    "complete",
    "environment",
    "fields",
    "load",
    "sections",
    "toml_value",
]
