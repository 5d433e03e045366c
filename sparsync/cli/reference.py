"""docs/configuration.md and docs/metrics.md, made from what declares keys and metrics so that they cannot differ.

`python -m sparsync.cli.reference metrics` prints the one, `sparsync config show --markdown` the other.
"""

from __future__ import annotations

import sys

from pydantic.fields import FieldInfo

from wire.config import accepts, sections, toml_value
from wire.metrics import METRICS, Metric

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
takes an optional value away. A launcher's `WORLD_SIZE` stands in for the default of `cluster.workers`
([launchers.md](launchers.md)). An unknown key, a wrong type or a value out of range ends the command
with exit code 78 before anything starts. `sparsync config show --origin` prints every value with
where it came from; `sparsync config check` only checks. Nothing changes once a run has begun; the
effective configuration stands in the run directory as `config.toml`.
"""


_METRICS = """\
# Metrics

This page is made from `wire/metrics.py` by `make docs`; change it there.

Each role serves its metrics for Prometheus where `--metrics HOST:PORT` says, or `telemetry.metrics` in the run's
configuration; without either none are served. Values are read when somebody scrapes, from what is there anyway.

```sh
sparsync train --metrics 127.0.0.1:0
```

With port 0 each role takes any free port. Each role says where it serves in a file of its own in `metrics/` of the run
directory (of its own data directory where the other is on another machine), as Prometheus' `file_sd_configs` reads it,
with the labels `instance` (the role's name in the run) and `run`; the file goes with the role.
`deploy/prometheus/prometheus.yml` finds a run that way, and has an example for machines of their own.

Without TLS a role serves them on loopback only, unless `--insecure` is given, as it does everything else. With TLS it
takes its own certificate and demands one of the caller: viewers, operators and the coordinator may read everybody's
metrics, other roles their own. Prometheus needs a certificate of its own, as a viewer (`sparsync certs issue`), and
asks for the name of the role that it dials (`server_name: ps.sparsync`), since certificates hold no addresses.

`deploy/grafana/sparsync.json` is a dashboard over all of them, `deploy/prometheus/alerts.yml` what is worth waking
somebody for. Beside the metrics below stand those that prometheus_client knows of any process (`process_*`,
`python_info`).
"""

_GROUPS = {
    "build_": ("Every role", ""),
    "malloc_": ("Every role, its memory", ""),
    "certificate_": ("Every role, with TLS", ""),
    "run_": (
        "The run, as its coordinator tells it",
        "Counters of units, samples, tokens and members come from the journal: a coordinator that is started again\n"
        "goes on with them.",
    ),
    "coordinator_": ("The coordinator's process", ""),
    "ps_": ("A parameter server", ""),
    "worker_": ("A worker", "Counters begin anew whenever it was given up and has joined anew."),
}


def metrics_page() -> str:
    """The text of docs/metrics.md: every metric with its kind, labels and meaning."""
    parts = [_METRICS]
    for prefix, (title, talk) in _GROUPS.items():
        rows = [
            _metric(metric) for metric in METRICS.values() if metric.name.startswith(f"sparsync_{prefix}")
        ]
        table = ["| metric | kind | labels | meaning |", "|---|---|---|---|", *rows]
        parts.append("\n\n".join(filter(None, [f"## {title}", talk, "\n".join(table)])) + "\n")
    return "\n".join(parts)


def _metric(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    return f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} |"


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


if __name__ == "__main__":
    sys.stdout.write({"configuration": configuration_page, "metrics": metrics_page}[sys.argv[1]]())
