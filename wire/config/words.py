"""Keys, values and faults in words: what a key accepts, what was found instead, and which key was meant."""

from __future__ import annotations

import json
import types
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

Known = Mapping[str, FieldInfo]
"""The keys that there are, by `section.key`, in order."""


def explain(error: ValidationError, known: Known, origins: Mapping[str, str], origin: str) -> str:
    """All faults of a tree, one a line; a key that `origins` lacks came from `origin`."""
    return "\n".join(_fault(dict(fault), known, origins, origin) for fault in error.errors(include_url=False))


def _fault(fault: dict[str, Any], known: Known, origins: Mapping[str, str], origin: str) -> str:
    if fault["type"] == "value_error":
        return str(fault["ctx"]["error"])
    key = ".".join(str(part) for part in fault["loc"][:2])
    wanted = accepts(known[key]) if key in known else fault["msg"]
    return f"{key} (from {origins.get(key, origin)}): expected {wanted}, found {named(fault['input'])}"


def unknown(key: str, known: Known, origin: str) -> str:
    """That `key` is none of the `known` ones, and which one may be meant."""
    nearest = _nearest(key, known)
    advice = f"did you mean {nearest}?" if nearest else "`sparsync config show` lists all keys"
    return f"{key} (from {origin}): no such key; {advice}"


def _nearest(key: str, known: Known) -> str | None:
    """The known key most like `key`, by its whole name or else by its last part; or else a section."""
    by_last = {name.rpartition(".")[2]: name for name in reversed(list(known))}
    sections = dict.fromkeys(name.partition(".")[0] for name in known)
    if close := get_close_matches(key, known, n=1, cutoff=0.75):
        return close[0]
    if close := get_close_matches(key.rpartition(".")[2], by_last, n=1, cutoff=0.7):
        return by_last[close[0]]
    close = get_close_matches(key, sections, n=1)
    return close[0] if close else None


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
    if origin is tuple and arguments[-1] is ...:
        return f"list of {_in_words(arguments[0])}"
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


def named(value: object) -> str:
    """A value that was found, with its type."""
    if value is None:
        return "none"
    return f"the {_NAMES.get(type(value), type(value).__name__)} {toml_value(value)}"


def toml_value(value: object) -> str:
    """A value as TOML writes it."""
    if value is None:
        return "none"
    if isinstance(value, tuple | list):
        return f"[{', '.join(toml_value(v) for v in value)}]"
    if isinstance(value, bool | str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
    return str(value)
