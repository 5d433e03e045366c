"""The flags by which a role says how it is watched: its log, its metrics."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import click

from wire.telemetry import TelemetryFlags

Command = TypeVar("Command", bound=Callable[..., Any])
Result = TypeVar("Result")

log_format_option = click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    envvar="SPARSYNC_TELEMETRY__LOG_FORMAT",
    help="Lines of the log: text, or JSON objects (telemetry.log_format).",
)
metrics_option = click.option(
    "--metrics",
    metavar="HOST:PORT",
    envvar="SPARSYNC_TELEMETRY__METRICS",
    help="Serve Prometheus metrics there; port 0: any free one (telemetry.metrics).",
)


def telemetry_options(command: Callable[..., Result]) -> Callable[..., Result]:
    """`--metrics` and `--log-format`, passed as `telemetry: TelemetryFlags`."""

    @wraps(command)
    def with_flags(*, log_format: Any, metrics: Any, **others: Any) -> Result:
        return command(telemetry=TelemetryFlags(log_format, metrics), **others)

    decorated: Callable[..., Result] = with_flags
    for option in (log_format_option, metrics_option):
        decorated = option(decorated)
    return decorated
