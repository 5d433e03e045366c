"""What is shipped for Prometheus and Grafana: promtool agrees with it, and alerts fire when they should."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Member
from tests.deploy.prometheus import needed, prometheus, until
from wire.exposition import Exposition
from wire.metrics import STEP
from wire.rpc.identity import Role, Security, server_name

ROOT = Path(__file__).parents[2]
ALERTS, DASHBOARD = ROOT / "deploy/prometheus/alerts.yml", ROOT / "deploy/grafana/sparsync.json"
RUNBOOK = (ROOT / "deploy/README.md").read_text()
promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool (Debian package prometheus) is not installed"
)


def check(*words: str | Path, cwd: Path = ROOT) -> str:
    """What promtool says; fails with it where it does not agree."""
    done = subprocess.run(
        ["promtool", *map(str, words)], cwd=cwd, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@promtool
def test_alert_rules_are_good() -> None:
    assert "SUCCESS" in check("check", "rules", ALERTS)


@promtool
def test_alerts_fire_when_they_should() -> None:
    assert "SUCCESS" in check("test", "rules", ROOT / "tests/deploy/alerts_test.yml")


@promtool
def test_the_example_of_a_configuration_is_good() -> None:
    told = check("check", "config", "prometheus.yml", cwd=ROOT / "deploy/prometheus")
    assert "prometheus.yml is valid" in told and "1 rule files found" in told


def commented_out() -> str:
    """That part of the example, as whoever has machines of their own takes it; certificates lie beside it."""
    text = (ROOT / "deploy/prometheus/prometheus.yml").read_text()
    before, marked, after = text.partition("  # On machines of their own")
    lines = [re.sub(r"^  # ?", "  ", line) for line in after.splitlines()[3:]]
    jobs = "\n".join(lines).replace("/etc/prometheus/sparsync/", "")
    assert marked and "sparsync-worker" in jobs
    return before.partition("rule_files:")[0] + "scrape_configs:\n" + jobs + "\n"


@promtool
def test_the_part_of_it_that_is_commented_out_is_good(tmp_path: Path) -> None:
    path = tmp_path / "prometheus.yml"
    path.write_text(commented_out())
    check("check", "config", "--syntax-only", path)


@needed
def test_the_part_of_it_that_is_commented_out_suits_the_runbook_and_the_dashboard(
    member: Member, tmp_path: Path
) -> None:
    viewer = member(Role.VIEWER, "prometheus")
    for path, name in ((viewer.tls_ca, "ca"), (viewer.tls_cert, "cert"), (viewer.tls_key, "key")):
        assert path is not None
        shutil.copy(path, tmp_path / f"{name}.pem")
    with prometheus(commented_out(), tmp_path) as asked:

        def targets() -> list[dict[str, str]]:
            return [target["labels"] for target in asked.get("targets")["activeTargets"]]

        found = until("three jobs", lambda: len({t["job"] for t in targets()}) == 3 and targets())
    assert {labels["run"] for labels in found} == {"first"}, "what the dashboard's menu lists"
    rows = re.findall(r"^\| (node.*) \| `[\w.-]+` \| `.*0\.0\.0\.0:(\d+)` \|$", RUNBOOK, re.MULTILINE)
    served = sorted(f"{node}:{port}" for nodes, port in rows for node in nodes.split(", "))
    assert len(served) == 6
    assert served == sorted(labels["instance"] for labels in found)


@needed
def test_it_scrapes_with_a_viewers_certificate_and_no_other(member: Member, tmp_path: Path) -> None:
    own, viewer, worker = member(Role.PS, "ps-3"), member(Role.VIEWER, "prometheus"), member(Role.WORKER, "w")
    with Exposition.serving(
        "127.0.0.1:0", own, lambda: [STEP(12)], role="ps", id="ps-3", run="r", places=[]
    ) as exposition:
        jobs = [
            job("viewer", viewer, Role.PS, exposition.address),
            job("worker", worker, Role.PS, exposition.address),
            job("mistaken", viewer, Role.COORDINATOR, exposition.address),
        ]
        config = {"global": {"scrape_interval": "200ms"}, "scrape_configs": jobs}
        with prometheus(json.dumps(config), tmp_path) as asked:
            up = until("all were tried", lambda: len(found := asked.values("up", "job")) == 3 and found)
            told = {t["labels"]["job"]: t["lastError"] for t in asked.get("targets")["activeTargets"]}
            assert asked.values("sparsync_run_step", "job") == {"viewer": 12}
    assert up == {"viewer": 1, "worker": 0, "mistaken": 0}
    assert "403" in told["worker"] and "not coordinator.sparsync" in told["mistaken"]


def job(name: str, own: Security, of: Role, address: str) -> dict[str, Any]:
    """As the example has them."""
    tls = {
        "ca_file": str(own.tls_ca),
        "cert_file": str(own.tls_cert),
        "key_file": str(own.tls_key),
        "server_name": server_name(of),
    }
    return {
        "job_name": name,
        "scheme": "https",
        "tls_config": tls,
        "static_configs": [{"targets": [address]}],
    }


def dashboard() -> dict[str, Any]:
    board: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return board


def test_the_panels_of_the_dashboard_lie_beside_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    panels = dashboard()["panels"]
    for panel in panels:
        at = panel["gridPos"]
        cells = {(at["x"] + i, at["y"] + j) for i in range(at["w"]) for j in range(at["h"])}
        assert not cells & taken and at["x"] + at["w"] <= 24, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_a_panel_that_shows_a_label_shows_the_one_that_holds_now() -> None:
    """A range would give each state that the run has been in a tile of its own."""
    named = [panel for panel in dashboard()["panels"] if panel.get("options", {}).get("textMode") == "name"]
    assert {panel["title"] for panel in named} == {"State", "Mode"}
    asked = [target for panel in named for target in panel["targets"]]
    assert [(target.get("instant"), target.get("range")) for target in asked] == [(True, False)] * len(asked)


@promtool
def test_what_the_dashboard_asks_can_be_asked(tmp_path: Path) -> None:
    asked = [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", ())]
    assert len(asked) > 30
    assert [expr for expr in asked if "$run" not in expr] == [], "one run among several"
    rules = [
        {"record": f"asked:{i}", "expr": expr.replace("$__rate_interval", "1m").replace("$run", ".*")}
        for i, expr in enumerate(asked)
    ]
    path = tmp_path / "asked.json"  # which is YAML too
    path.write_text(json.dumps({"groups": [{"name": "asked", "rules": rules}]}))
    check("check", "rules", path)
