"""A run as those see it who watch it: a real Prometheus that finds and scrapes every role, logs as objects, a trace."""

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

from tests.cluster.conftest import Start
from tests.cluster.running import command
from wire.trace import PATH

ROOT = Path(__file__).parents[2]
ROLES = {"coordinator", "ps-0", "worker-0", "worker-1"}
LIMIT_S = 60.0
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(
        shutil.which("prometheus") is None, reason="prometheus (Debian package prometheus) is not installed"
    ),
]


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
def prometheus(run: Path, work: Path) -> Iterator[Prometheus]:
    """With the configuration that is shipped, looking where `run` is, and often."""
    work.mkdir()
    config = (ROOT / "deploy/prometheus/prometheus.yml").read_text()
    for before, after in (
        ("runs/mine", str(run)),
        ("scrape_interval: 5s", "scrape_interval: 200ms"),
        ("evaluation_interval: 15s", "evaluation_interval: 1s"),
        ("refresh_interval: 15s", "refresh_interval: 1s"),
    ):
        assert before in config
        config = config.replace(before, after)
    (work / "prometheus.yml").write_text(config)
    shutil.copy(ROOT / "deploy/prometheus/alerts.yml", work)
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


def test_what_is_seen_of_a_run(train: Start, environ: dict[str, str], tmp_path: Path) -> None:
    flags = ["--metrics", "127.0.0.1:0", "--servers", "1", "--workers", "2", "--log-format", "json"]
    watched = {"telemetry.live": "off", "telemetry.trace": "true", "durability.ack": "disk"}
    running = train({"run.steps": 100_000, **watched}, flags=flags)
    with prometheus(running.out, tmp_path / "prometheus") as asked:
        up = until(
            "all up", lambda: {r for r, v in asked.values("up", "instance").items() if v} >= ROLES and True
        )
        assert up
        until("units settle", lambda: asked.values("sparsync_run_units_settled_total > 8", "instance"))
        (run,) = (event["run"] for event in running.events("began"))
        assert (
            asked.values("sparsync_run_info", "name") == asked.values("sparsync_run_info", "run") == {run: 1}
        )
        assert set(asked.values("sparsync_worker_units_total > 0", "instance")) == {"worker-0", "worker-1"}
        assert set(asked.values('sparsync_ps_pushes_total{outcome="accepted"} > 0', "instance")) == {"ps-0"}
        assert asked.values('sparsync_run_members{role="worker",state="alive"}', "role") == {"worker": 2}
        assert asked.values("sparsync_ps_log_fsync_seconds_count > 0", "instance").keys() == {"ps-0"}
        assert set(asked.values("process_resident_memory_bytes", "instance")) >= ROLES
        targets = asked.get("targets")["activeTargets"]
        assert [t["lastError"] for t in targets if t["lastError"]] == []
        assert {t["labels"]["job"] for t in targets} == {"sparsync"}
        rules = [rule for group in asked.get("rules")["groups"] for rule in group["rules"]]
        assert [rule["name"] for rule in rules if rule["state"] == "firing"] == []
        running.launcher.send_signal(signal.SIGINT)
        running.wait()
    logs = [line for log in (running.out / "logs").glob("*.log") for line in log.read_text().splitlines()]
    told = [json.loads(line) for line in logs if line.startswith("{")]
    assert {line["id"] for line in told} == ROLES
    assert max(line["clock"] or 0 for line in told) > 0
    assert list((running.out / "metrics").iterdir()) == []
    check_trace(running.out, environ)


def check_trace(run: Path, environ: dict[str, str]) -> None:
    """Every stage of the path was told, by whom it should be; arrows lead across processes."""
    done = command("trace", run, "--steps", "2:6", "--json", environ=environ)
    assert done.returncode == 0, done.stderr
    events = json.loads((run / "trace.json").read_text())["traceEvents"]
    names = {e["pid"]: e["args"]["name"].split()[0] for e in events if e["name"] == "process_name"}
    assert set(names.values()) == ROLES
    stages: dict[str, set[str]] = {}
    for event in events:
        if event["ph"] == "X":
            stages.setdefault(event["name"], set()).add(names[event["pid"]].partition("-")[0])
    by = {"worker": PATH[:3] + PATH[-2:], "ps": PATH[3:-2]}
    assert {stage: stages.get(stage) for stage in PATH} == {
        s: {role} for role, told in by.items() for s in told
    }
    assert stages["step"] == stages["close"] == stages["journal"] == {"coordinator"}
    assert stages["unit"] == stages["wait"] == {"worker"}
    steps = [e["args"]["step"] for e in events if e["ph"] == "X" and "step" in e["args"]]
    assert {min(steps), max(steps)} == {2, 5}
    whole = [e["id"] for e in events if e["ph"] == "f"]
    assert len(whole) == len(set(whole)) == 16, "four steps of four units, applied by their senders"
