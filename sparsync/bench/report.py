"""A benchmark's result for people: tables, and a page that also tells what it was measured on (`sparsync.page`)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sparsync.page import Row, Section, Table, document, figure, text_table
from sparsync.run_directory import write_whole
from wire.errors import UsageError

__all__ = ["Row", "Section", "Table", "figure", "page", "provenance", "text_table", "write"]


def page(title: str, result: Mapping[str, Any], sections: Iterable[Section]) -> str:
    """The whole HTML file."""
    raw = ("Everything", "the result as JSON", json.dumps(result, indent=1))
    return document(title, provenance(result), sections, [raw])


def provenance(result: Mapping[str, Any]) -> Table:
    """Machine, versions, commit and options as rows."""
    about = result["about"]
    groups = {**about["machine"], "commit": about["commit"], "at": about["at"]}
    groups["versions"] = ", ".join(f"{k} {v}" for k, v in about["versions"].items() if v)
    groups["options"] = ", ".join(
        f"{k} {_words(v)}" for k, v in result["options"].items() if v not in (None, [])
    )
    return Table(("measured on", ""), [*groups.items()])


def _words(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def write(out: Path, name: str, result: Mapping[str, Any], html: str) -> list[Path]:
    """`name`.json and `name`.html in `out`, which is made; their paths. Raises: UsageError."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {out}: cannot create it ({error.strerror}); choose another --out") from None
    files = {out / f"{name}.json": json.dumps(result, indent=2) + "\n", out / f"{name}.html": html}
    for path, text in files.items():
        write_whole(path, text)
    return [*files]
