"""Where values come from: file (TOML), environment (`SPARSYNC_SECTION__KEY`), flags (`-s section.key=value`).

Before them all a launcher's WORLD_SIZE, which stands in for a default (`wire.launchers`).

The later wins, and every value knows its origin. An unknown key, a wrong type or a value out of range is a
`ConfigError` that names the key, the origin, what was found and what was expected. This is also the one
place that reads the process environment.
"""

from __future__ import annotations

import os
import tomllib
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import ValidationError

from wire.config.tree import Config, fields, sections
from wire.config.words import explain, named, unknown
from wire.errors import ConfigError, NoInput

DEFAULT = "default"
ENV_PREFIX = "SPARSYNC_"


@dataclass(frozen=True)
class Loaded:
    """A configuration, and where each `section.key` of it came from."""

    config: Config
    origins: Mapping[str, str]


def environment() -> dict[str, str]:
    """A copy of this process's environment variables."""
    return dict(os.environ)


def load(file: Path | None, overrides: Sequence[str], environ: Mapping[str, str]) -> Loaded:
    """Builds the configuration from all sources; each of `overrides` is a `section.key=value`.

    Raises: NoInput (no such file), ConfigError (all faults of the first faulty source, one a line).
    """
    tree: dict[str, dict[str, Any]] = {}
    origins = {key: DEFAULT for key, _ in fields()}
    given = [*_from_file(file), *_from_environment(environ), *from_flags(overrides)]
    for key, value, origin in [*_from_launcher(environ), *given]:
        section, _, name = key.partition(".")
        tree.setdefault(section, {})[name] = value
        origins[key] = origin
    _refuse_two_lengths(origins)
    try:
        return Loaded(Config.model_validate(tree), origins)
    except ValidationError as error:
        raise ConfigError(explain(error, dict(fields()), origins, DEFAULT)) from None


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
            faults.append(f"{section} (from {file}): expected a table [{section}], found {named(table)}")
        else:
            faults.append(unknown(section, dict(fields()), str(file)))
    _refuse_unknown(settings, faults)
    return settings


def _from_launcher(environ: Mapping[str, str]) -> list[Setting]:
    """WORLD_SIZE alone: how many a Slurm step has is no word about others that it is to work with."""
    text = environ.get("WORLD_SIZE")
    return [("cluster.workers", _parsed("cluster.workers", text), "WORLD_SIZE")] if text else []


def _from_environment(environ: Mapping[str, str]) -> list[Setting]:
    settings = []
    for variable, text in sorted(environ.items()):
        if variable.startswith(ENV_PREFIX) and "__" in variable:
            key = variable.removeprefix(ENV_PREFIX).lower().replace("__", ".", 1)
            settings.append((key, _parsed(key, text), variable))
    _refuse_unknown(settings)
    return settings


def from_flags(overrides: Sequence[str]) -> list[Setting]:
    """The settings in `section.key=value` texts. Raises: ConfigError for an unknown key or a text without `=`."""
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
    found = [*faults, *(unknown(key, known, origin) for key, _, origin in settings if key not in known)]
    if found:
        raise ConfigError("\n".join(found))


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
