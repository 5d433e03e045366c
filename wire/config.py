"""The configuration: one tree, checked once, the same in every process of a run.

Precedence: default < file (TOML) < environment (`SPARSYNC_SECTION__KEY`) < flag (`-s section.key=value`).
Every value knows where it came from. An unknown key or a wrong type is a `ConfigError` that
names the key, the origin, what was found and what was expected. Frozen after loading; the
coordinator sends it to the other roles as JSON. docs/configuration.md is made from the
descriptions below. This is also the one place that reads the process environment.
"""

from __future__ import annotations

import json
import os
import tomllib
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from wire.errors import ConfigError, NoInput

Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Density = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
MagnitudeBits = Annotated[int, Field(ge=0, le=2)]
DEFAULT = "default"
ENV_PREFIX = "SPARSYNC_"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class RunConfig(_Section):
    """The training job as a whole."""

    seed: int = Field(
        0, ge=0, lt=2**63, description="seeds the initial model, the order of samples and all random numbers"
    )
    steps: Count = Field(
        300, description="steps to train; ignored when `run.epochs` is given (giving both is an error)"
    )
    epochs: Count | None = Field(None, description="passes over the data, instead of `run.steps`")
    checkpoint_every: int = Field(0, ge=0, description="steps between checkpoints; 0: only at the end")
    on_bad_unit: Literal["stop", "skip"] = Field(
        "stop",
        description="what happens when the same unit is bad (NaN or Inf) three times: "
        "end the run, or count it as empty",
    )
    eval_every: int = Field(
        50, ge=0, description="steps between evaluations of the built-in trainer; 0: only at the end"
    )


class ModelConfig(_Section):
    """The built-in language model; a script of your own does not read it."""

    layers: Count = Field(4, description="transformer blocks")
    width: Count = Field(256, description="size of the residual stream; a multiple of `model.heads`")
    heads: Count = Field(4, description="attention heads")

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(
                f"model.width = {self.width} is no multiple of model.heads = {self.heads}; change one of them"
            )
        return self


class DataConfig(_Section):
    """What is trained on."""

    source: str = Field(
        "stdlib",
        min_length=1,
        description="name of a corpus (`sparsync data list`), or a file or directory of text",
    )
    seq_len: Count = Field(128, description="tokens a sample")
    batch_size: Count = Field(4, description="samples a unit of the built-in trainer")
    cache_dir: str | None = Field(
        None, description="where prepared tokens are kept; without it, the user's cache directory"
    )


class SyncConfig(_Section):
    """How workers keep in step."""

    mode: Literal["sync", "ssp", "async"] = Field(
        "sync",
        description="pace of the run: `sync` closes a step when every unit of it is in; `ssp` settles units on arrival "
        "and bounds how far ahead the fastest stream may be; `async` settles on arrival, without a bound. "
        "Live: `sparsync set sync.mode=async`",
    )
    staleness: Count | None = Field(
        None,
        description="`ssp`: steps that a stream may be ahead of the slowest one; without it, 3. Live",
    )
    quorum: Count | None = Field(
        None,
        description="`sync`: close a step with this many of its units once `sync.deadline_s` is over, and settle the "
        "others late; the result then depends on the machines. Without it, all. Live",
    )
    deadline_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        1.0, description="`sync.quorum`: how long a step waits for all its units. Live"
    )
    damping: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        0.5,
        description="a unit that is τ steps stale counts by (1 + max(0, τ - 1)) to the power of minus this; the rest "
        'goes back to its sender. 0 (and `optimizer.aggregate = "sum"`): in full',
    )
    max_staleness: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        8.0, description="a unit that is more steps stale goes back to its sender whole (not with `sum`)"
    )
    units_per_step: Count = Field(
        4,
        description="streams that a step is cut into; the result depends on it, and never on the number of workers",
    )

    @model_validator(mode="after")
    def _keys_fit_the_mode(self) -> Self:
        if self.staleness is not None and self.mode != "ssp":
            raise ValueError(
                f"sync.staleness = {self.staleness} beside sync.mode = {self.mode!r}: only `ssp` has a bound to set"
            )
        if self.quorum is not None and self.mode != "sync":
            raise ValueError(
                f"sync.quorum = {self.quorum} beside sync.mode = {self.mode!r}: only `sync` closes steps"
            )
        if self.quorum is not None and self.quorum > self.units_per_step:
            raise ValueError(
                f"sync.quorum = {self.quorum} is more than sync.units_per_step = {self.units_per_step}"
            )
        return self


class PushConfig(_Section):
    """Updates on their way up, from workers to parameter servers."""

    codec: Literal["topk", "dense"] = Field(
        "topk", description="`topk` sends the largest elements of each block; `dense` sends all in fp32"
    )
    density: Density = Field(0.25, description="share of each block's elements that `topk` sends")
    feedback: Literal["auto", "ef21", "ef"] = Field(
        "auto",
        description="what happens to the rest: `ef21` keeps an estimate on both sides, `ef` adds it to the next push; "
        "`auto` takes `ef21` for AdamW in `sync` without a quorum, else `ef`",
    )
    momentum: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = Field(
        1.0, description="share η of the new gradient in the average that `ef21` follows; 1: no averaging"
    )
    magnitude_bits: MagnitudeBits = Field(
        1, description="bits of each sent element's magnitude; 0: its sign alone"
    )


class PullConfig(_Section):
    """Deltas on their way down, from parameter servers to workers."""

    codec: Literal["topk", "dense"] = Field(
        "topk",
        description="`topk` publishes the largest differences of each block; `dense` publishes x itself",
    )
    density: Density = Field(0.25, description="share of each block's elements that `topk` publishes")
    magnitude_bits: MagnitudeBits = Field(
        1, description="bits of each published element's magnitude; 0: its sign alone"
    )


class OptimizerConfig(_Section):
    """The optimizer; all but `aggregate` is read by the built-in trainer only."""

    name: Literal["adamw", "sgd"] = Field("adamw", description="which optimizer the servers run")
    lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(1e-3, description="peak learning rate")
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        0.1, description="weight decay of matrices"
    )
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = Field(
        (0.5, 0.95),
        description="AdamW's decay rates of the first and second moment; the first is low because the estimates of "
        "`ef21` lag like momentum (benchmarks/results/codec_defaults.md)",
    )
    warmup_steps: int = Field(20, ge=0, description="steps over which the learning rate rises from 0")
    min_lr_ratio: Annotated[float, Field(ge=0, le=1)] = Field(
        0.1, description="learning rate at the end, as a share of the peak (cosine)"
    )
    aggregate: Literal["mean", "sum"] = Field(
        "mean", description="how the units of a step become one gradient"
    )


class ClusterConfig(_Section):
    """Processes, their time limits and their memory."""

    servers: Count = Field(2, description="parameter servers; the run begins when all are there")
    workers: Count = Field(2, description="workers; those beyond `sync.units_per_step` stand by as spares")
    min_workers: Count | None = Field(
        None,
        description="workers that must be there for the run to begin; without it, all of `cluster.workers`",
    )
    compute_threads: Count = Field(
        1, description="threads that each process computes with; the result may depend on it"
    )
    restarts: int = Field(3, ge=0, description="times that `sparsync train` starts each dead role again")
    admit_bytes: int = Field(
        256 * 2**20,
        ge=2**20,
        description="bytes of pushes that a server holds at once; beyond that it answers `Busy`",
    )
    heartbeat_interval_s: Seconds = Field(1.0, description="time between two heartbeats of a process")
    suspect_s: Seconds = Field(3.0, description="silence after which a process is shown as suspect")
    dead_s: Seconds = Field(
        4.8, description="silence after which a process is given up and its units go to others"
    )
    straggler_s: Seconds = Field(
        5.0,
        description="a live worker whose unit takes longer than this and than three median units, while another one "
        "waits, is given up; it comes back by itself and is dealt work by its speed. Not in `async`: nobody waits",
    )
    progress_timeout_s: Seconds = Field(
        60.0, description="time without progress on a unit after which a live worker is given up"
    )
    allow_mixed_fingerprints: bool = Field(
        False,
        description="admit workers whose torch build, device or CPU differ; the result is then not reproducible",
    )

    @property
    def workers_to_begin(self) -> int:
        """Workers that must have joined for the run to begin."""
        return self.workers if self.min_workers is None else self.min_workers

    @model_validator(mode="after")
    def _limits_in_order(self) -> Self:
        if not self.heartbeat_interval_s < self.suspect_s < self.dead_s:
            raise ValueError(
                f"cluster.heartbeat_interval_s = {self.heartbeat_interval_s:g}, suspect_s = {self.suspect_s:g} and "
                f"dead_s = {self.dead_s:g} must rise in this order"
            )
        if self.min_workers is not None and self.min_workers > self.workers:
            raise ValueError(
                f"cluster.min_workers = {self.min_workers} is more than cluster.workers = {self.workers}"
            )
        return self


class DurabilityConfig(_Section):
    """What survives which failure."""

    stream_state_every: Count = Field(
        32,
        description="steps between two deposits of a stream's state (residual, buffers); an heir replays at most these",
    )


class SecurityConfig(_Section):
    """Who may connect. Without TLS every server listens on loopback only."""

    insecure: bool = Field(
        False, description="listen beyond loopback without TLS; logged, and shown in status"
    )
    tls_ca: str | None = Field(
        None, description="PEM file of the authority that signs every role's certificate"
    )
    tls_cert: str | None = Field(None, description="PEM file of this process's certificate")
    tls_key: str | None = Field(None, description="PEM file of its private key")

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        given = {"tls_ca": self.tls_ca, "tls_cert": self.tls_cert, "tls_key": self.tls_key}
        missing = [f"security.{key}" for key, path in given.items() if path is None]
        if 0 < len(missing) < len(given):
            raise ValueError(f"{', '.join(missing)} missing: TLS needs all of tls_ca, tls_cert and tls_key")
        if self.insecure and not missing:
            raise ValueError("security.insecure = true beside TLS files: remove one of the two")
        return self


class TelemetryConfig(_Section):
    """What is shown and logged."""

    live: Literal["auto", "table", "plain", "off"] = Field(
        "auto",
        description="progress shown: a live table, plain lines, nothing; `auto` takes the table on a terminal",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least severe level that is logged"
    )


class Config(_Section):
    """The whole tree."""

    run: RunConfig = RunConfig()
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    sync: SyncConfig = SyncConfig()
    push: PushConfig = PushConfig()
    pull: PullConfig = PullConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    cluster: ClusterConfig = ClusterConfig()
    durability: DurabilityConfig = DurabilityConfig()
    security: SecurityConfig = SecurityConfig()
    telemetry: TelemetryConfig = TelemetryConfig()

    def to_json(self) -> str:
        return self.model_dump_json()

    @classmethod
    def from_json(cls, text: str | bytes) -> Config:
        """Reads what `to_json` wrote. Raises ConfigError where another build wrote something else."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise ConfigError(_explain(error, {}, "the coordinator")) from None

    def to_toml(self, origins: Mapping[str, str] | None = None) -> str:
        """The effective configuration; `load` of it gives the same tree. With `origins`, each line tells its own."""
        lines = []
        for section in sections():
            lines += ["", f"[{section}]"]
            for key, value in self.model_dump()[section].items():
                if value is None or (key == "steps" and self.run.epochs is not None):
                    continue
                origin = f"  # {_printable(origins[f'{section}.{key}'])}" if origins else ""
                lines.append(f"{key} = {toml_value(value)}{origin}")
        return "\n".join(lines[1:]) + "\n"


@dataclass(frozen=True)
class Loaded:
    """A configuration, and where each `section.key` of it came from."""

    config: Config
    origins: Mapping[str, str]


def environment() -> dict[str, str]:
    """A copy of this process's environment variables."""
    return dict(os.environ)


def sections() -> Mapping[str, type[BaseModel]]:
    """The sections by name, in order."""
    return {name: _model(field) for name, field in Config.model_fields.items()}


def fields() -> Iterator[tuple[str, FieldInfo]]:
    """Every `section.key` with its field, in order."""
    for section, model in sections().items():
        for key, field in model.model_fields.items():
            yield f"{section}.{key}", field


def load(file: Path | None, overrides: Sequence[str], environ: Mapping[str, str]) -> Loaded:
    """Builds the configuration from all sources; each of `overrides` is a `section.key=value`.

    Raises: NoInput (no such file), ConfigError (all faults of the first faulty source, one a line).
    """
    tree: dict[str, dict[str, Any]] = {}
    origins = {key: DEFAULT for key, _ in fields()}
    for key, value, origin in [*_from_file(file), *_from_environment(environ), *_from_flags(overrides)]:
        section, _, name = key.partition(".")
        tree.setdefault(section, {})[name] = value
        origins[key] = origin
    _refuse_two_lengths(origins)
    try:
        return Loaded(Config.model_validate(tree), origins)
    except ValidationError as error:
        raise ConfigError(_explain(error, origins, DEFAULT)) from None


LIVE = ("sync.mode", "sync.staleness", "sync.quorum", "sync.deadline_s")
"""The keys that may change while a run goes on."""


def amend(config: Config, settings: Mapping[str, str]) -> Config:
    """`config` with live `settings` (`section.key` -> text) changed. A new mode drops what only the old one read.

    Raises: ConfigError for a key that is not live, or a value that does not fit.
    """
    changes = _from_flags([f"{key}={value}" for key, value in settings.items()])
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
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_explain(error, origins, DEFAULT)) from None


Setting = tuple[str, Any, str]
"""`section.key`, value, origin."""


def _from_file(file: Path | None) -> list[Setting]:
    if file is None:
        return []
    try:
        tree = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise NoInput(
            f"cannot read the configuration file {file}: {error.strerror}; check the path"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not TOML: {error}") from None
    known, settings, faults = sections(), [], []
    for section, table in tree.items():
        if section in known and isinstance(table, dict):
            settings += [(f"{section}.{name}", _frozen(value), str(file)) for name, value in table.items()]
        elif section in known:
            faults.append(f"{section} (from {file}): expected a table [{section}], found {_named(table)}")
        else:
            faults.append(_unknown(section, str(file)))
    _refuse_unknown(settings, faults)
    return settings


def _from_environment(environ: Mapping[str, str]) -> list[Setting]:
    settings = []
    for variable, text in sorted(environ.items()):
        if variable.startswith(ENV_PREFIX) and "__" in variable:
            key = variable.removeprefix(ENV_PREFIX).lower().replace("__", ".", 1)
            settings.append((key, _parsed(key, text), variable))
    _refuse_unknown(settings)
    return settings


def _from_flags(overrides: Sequence[str]) -> list[Setting]:
    settings = []
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise ConfigError(f"-s {override}: expected section.key=value, as in -s run.steps=60")
        key = key.strip().replace("-", "_")
        settings.append((key, _parsed(key, text.strip()), f"-s {override}"))
    _refuse_unknown(settings)
    return settings


def _refuse_unknown(settings: Sequence[Setting], faults: Sequence[str] = ()) -> None:
    known = dict(fields())
    found = [*faults, *(_unknown(key, origin) for key, _, origin in settings if key not in known)]
    if found:
        raise ConfigError("\n".join(found))


def _unknown(key: str, origin: str) -> str:
    nearest = _nearest(key)
    advice = f"did you mean {nearest}?" if nearest else "`sparsync config show` lists all keys"
    return f"{key} (from {origin}): no such key; {advice}"


def _nearest(key: str) -> str | None:
    """The known key most like `key`, by its whole name or else by its last part; or else a section."""
    known = [name for name, _ in fields()]
    by_last = {name.rpartition(".")[2]: name for name in reversed(known)}
    if close := get_close_matches(key, known, n=1, cutoff=0.75):
        return close[0]
    if close := get_close_matches(key.rpartition(".")[2], by_last, n=1, cutoff=0.7):
        return by_last[close[0]]
    close = get_close_matches(key, sections(), n=1)
    return close[0] if close else None


def _refuse_two_lengths(origins: Mapping[str, str]) -> None:
    if DEFAULT not in (origins["run.steps"], origins["run.epochs"]):
        raise ConfigError(
            f"both run.steps (from {origins['run.steps']}) and run.epochs (from {origins['run.epochs']}) are given; "
            f"a run has one length: remove one of them"
        )


def _parsed(key: str, text: str) -> Any:
    """A value given as text: TOML where it is TOML, bare words as strings, `none` for an absent optional value."""
    field = dict(fields()).get(key)
    accepted = _accepted(field.annotation) if field else set()
    if text.lower() == "none" and type(None) in accepted:
        return None
    if str in accepted and text[:1] not in ("'", '"'):
        return text
    try:
        return _frozen(tomllib.loads(f"value = {text}")["value"])
    except tomllib.TOMLDecodeError:
        return text


def _accepted(annotation: Any) -> set[type]:
    """The plain types that an annotation lets in."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _accepted(get_args(annotation)[0])
    if origin is Literal:
        return {type(choice) for choice in get_args(annotation)}
    if origin in (Union, types.UnionType):
        return set().union(*(_accepted(a) for a in get_args(annotation)))
    return {origin or annotation}


def _frozen(value: Any) -> Any:
    return tuple(_frozen(v) for v in value) if isinstance(value, list) else value


def _explain(error: ValidationError, origins: Mapping[str, str], origin: str) -> str:
    return "\n".join(_fault(dict(fault), origins, origin) for fault in error.errors(include_url=False))


def _fault(fault: dict[str, Any], origins: Mapping[str, str], origin: str) -> str:
    if fault["type"] == "value_error":
        return str(fault["ctx"]["error"])
    key = ".".join(str(part) for part in fault["loc"][:2])
    field = dict(fields()).get(key)
    wanted = accepts(field) if field else fault["msg"]
    return f"{key} (from {origins.get(key, origin)}): expected {wanted}, found {_named(fault['input'])}"


def accepts(field: FieldInfo) -> str:
    """What a key lets in, in words: `integer ≥ 1`, `"topk" or "dense"`."""
    return _in_words(field.annotation, _bounds(field.metadata))


_SIGNS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
_WORDS = {bool: "true or false", int: "integer", float: "number", str: "text"}


def _in_words(annotation: Any, bounds: str = "") -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _in_words(arguments[0], bounds or _bounds(arguments[1:]))
    if origin is Literal:
        return " or ".join(toml_value(choice) for choice in arguments)
    if origin is tuple:
        return f"list of {len(arguments)} with {_in_words(arguments[0])} each"
    if annotation is type(None):
        return "none"
    if origin in (Union, types.UnionType):
        return " or ".join(_in_words(choice, bounds) for choice in arguments)
    return _WORDS[annotation] + bounds


def _bounds(metadata: Sequence[Any]) -> str:
    """The limits among pydantic's metadata, such as ` > 0 and ≤ 1`."""
    flat = [inner for m in metadata for inner in (m.metadata if isinstance(m, FieldInfo) else [m])]
    limits = [
        f"{sign} {toml_value(getattr(m, name))}"
        for m in flat
        for name, sign in _SIGNS.items()
        if getattr(m, name, None) is not None
    ]
    return " " + " and ".join(limits) if limits else ""


_NAMES = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    tuple: "list",
    list: "list",
    dict: "table",
}


def _named(value: object) -> str:
    if value is None:
        return "none"
    return f"the {_NAMES.get(type(value), type(value).__name__)} {toml_value(value)}"


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)


def toml_value(value: object) -> str:
    """A value as TOML writes it."""
    if value is None:
        return "none"
    if isinstance(value, tuple | list):
        return f"[{', '.join(toml_value(v) for v in value)}]"
    if isinstance(value, bool | str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
    return str(value)


def _model(field: FieldInfo) -> type[BaseModel]:
    assert isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    return field.annotation
