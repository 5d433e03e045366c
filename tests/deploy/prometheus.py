"""A real Prometheus, started on a configuration, and what it can be asked."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

LIMIT_S = 60.0
needed = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="prometheus (Debian package prometheus) is not installed"
)


class Prometheus:
    """One that is running."""

    def __init__(self, port: int) -> None:
        self._base = f"http://127.0.0.1:{port}/api/v1"

    def get(self, path: str, **asked: str) -> Any:
        url = f"{self._base}/{path}?{urllib.parse.urlencode(asked)}"
        with urllib.request.urlopen(url, timeout=10) as reply:
            return json.load(reply)["data"]

    def values(self, query: str, label: str) -> dict[str, float]:
        """The newest values, by a label."""
        found = self.get("query", query=query)["result"]
        return {series["metric"].get(label, ""): float(series["value"][1]) for series in found}


@contextmanager
def prometheus(config: str, work: Path) -> Iterator[Prometheus]:
    """On `config`, which stands in the directory `work`."""
    (work / "prometheus.yml").write_text(config)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    flags = [f"--config.file={work}/prometheus.yml", f"--storage.tsdb.path={work}/data"]
    with (work / "log").open("wb") as told:
        process = subprocess.Popen(
            ["prometheus", *flags, f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"],
            stdin=subprocess.DEVNULL,
            stdout=told,
            stderr=subprocess.STDOUT,
        )
    try:
        yield Prometheus(port)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def until(what: str, found: Callable[[], Any]) -> Any:
    """The first value that is not empty; Prometheus may not be up yet."""
    deadline, value = time.monotonic() + LIMIT_S, None
    while time.monotonic() < deadline:
        try:
            if value := found():
                return value
        except (OSError, urllib.error.URLError):
            pass
        time.sleep(0.1)
    raise AssertionError(f"not within {LIMIT_S:g} s: {what}; last {value}")
