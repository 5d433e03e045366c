"""A run as those see it who watch it: a real Prometheus that finds and scrapes every role, logs as objects, a trace."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Mapping, Set
from pathlib import Path

import pytest

from tests.cluster.conftest import Start
from tests.cluster.running import command
from tests.deploy.prometheus import needed, prometheus, until
from wire.trace import PATH

ROOT = Path(__file__).parents[2]
ROLES = {"coordinator", "ps-0", "worker-0", "worker-1"}
pytestmark = [pytest.mark.cluster, needed]


def shipped(run: Path) -> str:
    """The configuration that is shipped, looking where `run` is, and often."""
    config = (ROOT / "deploy/prometheus/prometheus.yml").read_text()
    for before, after in (
        ("runs/mine", str(run)),
        ("scrape_interval: 5s", "scrape_interval: 1s"),
        ("evaluation_interval: 15s", "evaluation_interval: 1s"),
        ("refresh_interval: 15s", "refresh_interval: 1s"),
    ):
        assert before in config
        config = config.replace(before, after)
    return config


def test_what_is_seen_of_a_run(train: Start, environ: dict[str, str], tmp_path: Path) -> None:
    flags = ["--metrics", "127.0.0.1:0", "--servers", "1", "--workers", "2", "--log-format", "json"]
    watched = {"telemetry.live": "off", "telemetry.trace": "true", "durability.ack": "disk"}
    running = train({"run.steps": 100_000, **watched}, flags=flags)
    work = tmp_path / "prometheus"
    work.mkdir()
    shutil.copy(ROOT / "deploy/prometheus/alerts.yml", work)
    with prometheus(shipped(running.out), work) as asked:

        def shown(query: str, label: str, expected: Mapping[str, float] | Set[str]) -> None:
            """What is asked shows that, once each role was scraped often enough."""

            def is_shown() -> bool:
                values = asked.values(query, label)
                return (values if isinstance(expected, Mapping) else values.keys()) == expected

            until(f"{query} by {label} is {expected}", is_shown)

        shown("up", "instance", dict.fromkeys(ROLES, 1.0))
        until("units settle", lambda: asked.values("sparsync_run_units_settled_total > 8", "instance"))
        (run,) = (event["run"] for event in running.events("began"))
        shown("sparsync_run_info", "name", {run: 1})
        shown("sparsync_run_info", "run", {run: 1})
        shown("sparsync_worker_units_total > 0", "instance", {"worker-0", "worker-1"})
        shown('sparsync_ps_pushes_total{outcome="accepted"} > 0', "instance", {"ps-0"})
        shown('sparsync_run_members{role="worker",state="alive"}', "role", {"worker": 2})
        shown("sparsync_ps_log_fsync_seconds_count > 0", "instance", {"ps-0"})
        shown("process_resident_memory_bytes", "instance", ROLES)
        until(
            "no scrape fails", lambda: not any(t["lastError"] for t in asked.get("targets")["activeTargets"])
        )
        assert {t["labels"]["job"] for t in asked.get("targets")["activeTargets"]} == {"sparsync"}
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
