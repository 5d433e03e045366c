"""docs/configuration.md, made from the schema in `wire/config/schema.py` so that the two cannot differ."""

from __future__ import annotations

from pydantic.fields import FieldInfo

from wire.config import accepts, sections, toml_value

_INTRODUCTION = """\
# Configuration

This page is made from the schema in `wire/config/schema.py` by `make docs`; change it there.

One TOML tree with the sections below. A value comes from its default, then the file, then the
environment, then the flag; the later wins:

```
sparsync train my.toml                          # [run] steps = 60 in the file
SPARSYNC_RUN__STEPS=60 sparsync train           # SPARSYNC_SECTION__KEY
sparsync train -s run.steps=60                  # -s section.key=value
```

In the environment and in `-s` a value is written as in TOML, but text needs no quotes, and `none`
takes an optional value away. An unknown key, a wrong type or a value out of range ends the command
with exit code 78 before anything starts. `sparsync config show --origin` prints every value with
where it came from; `sparsync config check` only checks. Nothing changes once a run has begun; the
effective configuration stands in the run directory as `config.toml`.
"""


def configuration_page() -> str:
    """The text of docs/configuration.md: every key with what it accepts, its default and its meaning."""
    parts = [_INTRODUCTION]
    for section, model in sections().items():
        rows = [_row(f"{section}.{key}", field) for key, field in model.model_fields.items()]
        table = ["| key | accepts | default | meaning |", "|---|---|---|---|", *rows]
        parts.append(f"## {section}\n\n{model.__doc__}\n\n" + "\n".join(table) + "\n")
    return "\n".join(parts)


def _row(key: str, field: FieldInfo) -> str:
    return f"| `{key}` | {accepts(field)} | `{toml_value(field.default)}` | {field.description} |"
