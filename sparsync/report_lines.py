"""The words around a run: its summary, how to continue it, and the same roles on real machines. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsync.quantities import show, show_bytes, show_count, show_loss, show_ratio, show_seconds
from sparsync.run_table import pace_words

DIGEST_LETTERS = 16
SAMPLE_LINES = 24
TLS = "--tls-ca tls/ca.pem --tls-cert tls/cert.pem --tls-key tls/key.pem"
"""What `sparsync certs issue` makes for each process, copied to `tls` on its machine."""

Summary = Mapping[str, Any]


def summary_lines(summary: Summary) -> list[str]:
    """What came out: losses, speed, bytes against dense, digests; and what an elastic pace brought about."""
    moved = (summary.get("bytes_pushed") or 0) + (summary.get("bytes_pulled") or 0)
    rows = [
        ("run", f"{show(summary.get('run'))}, mode {show(summary.get('mode'))}, {_purity(summary)}"),
        ("steps", _steps(summary)),
        ("loss", _losses(summary)),
        ("speed", _speed(summary)),
        (
            "bytes",
            f"{show_bytes(summary.get('bytes_pushed'))} sent, {show_bytes(summary.get('bytes_pulled'))} received: "
            f"{show_ratio(summary.get('bytes_dense'), moved)} fewer than dense "
            f"({show_bytes(summary.get('bytes_dense'))}); stream state {show_bytes(summary.get('bytes_state'))}",
        ),
        ("model", f"{show_count(summary.get('params'))} parameters"),
        ("digests", _digests(summary)),
        ("mishaps", _mishaps(summary)),
        *(("" if i else "pace", words) for i, words in enumerate(pace_words(summary))),
    ]
    return [f"{name:<9}{text}" for name, text in rows]


def _purity(summary: Summary) -> str:
    if summary.get("pure") is None:
        return "purity unknown"
    return "pure" if summary["pure"] else "not pure (its pace, or workers of different fingerprints)"


def _steps(summary: Summary) -> str:
    empty = summary.get("units_empty")
    units = f"{show(summary.get('units_settled'))} units settled" + (
        f", {empty} of them empty" if empty else ""
    )
    counts = f"{show_count(summary.get('samples'))} samples, {show_count(summary.get('tokens'))} tokens"
    return f"{show(summary.get('steps'))}; {units}; {counts}"


def _losses(summary: Summary) -> str:
    server = summary.get("val_loss_server")
    return (
        f"training {show_loss(summary.get('train_loss'))}, validation {show_loss(summary.get('val_loss'))} "
        f"on the published model" + (f", {show_loss(server)} on the servers' x" if server is not None else "")
    )


def _speed(summary: Summary) -> str:
    return (
        f"{show_count(summary.get('tokens_per_s'))} tokens/s over {show_seconds(summary.get('wall_s'))}, "
        f"{show(summary.get('workers'))} workers, {show(summary.get('servers'))} servers"
    )


def _digests(summary: Summary) -> str:
    names = (("x", "params_digest"), ("published", "published_digest"), ("data", "data_digest"))
    return "  ".join(f"{name} {(summary.get(key) or '–')[:DIGEST_LETTERS]}" for name, key in names)


def _mishaps(summary: Summary) -> str:
    return f"{show(summary.get('restarts'))} restarts, {show(summary.get('recoveries'))} recoveries"


def sample_lines(text: str) -> list[str]:
    """The beginning of a generated text, set off from what surrounds it."""
    lines = text.rstrip().splitlines()
    cut = [f"  … {len(lines) - SAMPLE_LINES} more lines"] if len(lines) > SAMPLE_LINES else []
    shown = [
        "".join(c if c.isprintable() or c == "\t" else "·" for c in line) for line in lines[:SAMPLE_LINES]
    ]
    return [*(f"  | {line}" for line in shown), *cut]


def resume_command(out: Path) -> str:
    """What continues a run from its newest checkpoint."""
    return f"sparsync train --resume {quoted(out)}"


def steering_lines(run: Path) -> list[str]:
    """The commands that look at a live run and steer it."""
    at = quoted(run)
    return [
        f"sparsync top {at}",
        f"sparsync set {at} sync.mode=async",
        f"sparsync drain worker-0 {at}",
        f"sparsync stop {at}",
    ]


def continue_command(out: Path, *, length: tuple[str, int]) -> str:
    """What trains a finished run further: twice its `length`, which is (`run.steps` or `run.epochs`, value)."""
    key, value = length
    return f"{resume_command(out)} -s {key}={2 * value}"


def quoted(path: Path) -> str:
    """A path for a shell, relative where it lies below the current directory."""
    return shlex.quote(str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path))


def real_machine_lines(*, config: Path, servers: int, workers: int, command: Sequence[str]) -> list[str]:
    """The commands that start the same roles on machines of their own. `command`: the user's script, or nothing."""
    script = f" {shlex.join(command)}" if command else ""
    return [
        "# host-a: the coordinator; certificates come from sparsync certs init and issue (docs/security.md)",
        f"sparsync coordinator --config {quoted(config)} --listen 0.0.0.0:7700 --advertise host-a:7700 "
        f"--data-dir coordinator-data {TLS}",
        f"# {servers} hosts, one server each (host-b is the first)",
        f"sparsync ps --coordinator host-a:7700 --listen 0.0.0.0:7701 --advertise host-b:7701 --name ps-0 "
        f"--data-dir ps-0 {TLS}",
        f"# {workers} hosts, one worker a device",
        f"sparsync worker --coordinator host-a:7700 --name worker-0 --device cuda:0 "
        f"--data-dir worker-0 {TLS}{script}",
    ]
