"""What `sparsync node install` puts on a machine, and how often; what `remove` takes away."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from sparsync.node.install import CHANGED, KEEPS, MISSING, REMOVED, SAME, WROTE, Done, install, remove
from sparsync.node.plan import SHIPPED, Node, refuse_hidden
from wire.errors import UsageError

PS = Node("ps", name="node2", host="10.0.0.2", coordinator="node1:7700", instance=1)
COORDINATOR = Node("coordinator", name="node1", host="node1.example")
WORKER = Node("worker", name="node2", host="node2", coordinator="node1:7700", device="cuda:0")
UNITS = "etc/systemd/system"


def paths(done: list[Done], what: str) -> set[str]:
    return {str(d.path) for d in done if d.what == what}


def settings(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def test_a_server_gets_its_unit_and_its_settings(tmp_path: Path) -> None:
    done = install(PS, root=tmp_path)
    assert (tmp_path / UNITS / "sparsync-ps@.service").read_text() == (
        SHIPPED / "sparsync-ps@.service"
    ).read_text(), "with the user and the program that are shipped, the shipped file itself"
    assert settings(tmp_path / "etc/sparsync/ps.env") == {
        "SPARSYNC_COORDINATOR": "node1:7700",
        "SPARSYNC_NODE": "node2",
        "SPARSYNC_OPTIONS": "",
    }
    assert settings(tmp_path / "etc/sparsync/ps-1.env") == {
        "SPARSYNC_LISTEN": "0.0.0.0:7702",
        "SPARSYNC_ADVERTISE": "10.0.0.2:7702",
    }
    assert paths(done, MISSING) == {
        f"/etc/sparsync/tls/ps/{name}" for name in ("ca.pem", "cert.pem", "key.pem")
    }
    assert PS.commands[-1] == "systemctl enable --now sparsync.target sparsync-ps@1.service"


def test_keys_lie_where_root_alone_looks_and_settings_where_all_may(tmp_path: Path) -> None:
    install(PS, root=tmp_path)
    modes = {
        name: stat.S_IMODE((tmp_path / "etc/sparsync" / name).stat().st_mode)
        for name in ("", "tls", "tls/ps", "ps.env")
    }
    assert modes == {"": 0o755, "tls": 0o700, "tls/ps": 0o700, "ps.env": 0o644}


@pytest.mark.skipif(
    shutil.which("systemd-tmpfiles") is None or os.geteuid() != 0, reason="systemd-tmpfiles, as root"
)
def test_keys_that_were_opened_to_a_group_stay_so_at_the_next_boot(tmp_path: Path) -> None:
    install(PS, root=tmp_path)
    directories = [tmp_path / "etc/sparsync" / name for name in ("tls", "tls/ps")]
    for path in directories:
        path.chmod(0o750)
    boot = ["systemd-tmpfiles", "--create", f"--root={tmp_path}", tmp_path / "etc/tmpfiles.d/sparsync.conf"]
    subprocess.run(boot, check=True)
    install(PS, root=tmp_path)
    assert [stat.S_IMODE(path.stat().st_mode) for path in directories] == [0o750, 0o750]
    assert (tmp_path / "srv/sparsync").is_dir()


def test_a_coordinator_gets_a_run_and_a_worker_its_device(tmp_path: Path) -> None:
    install(COORDINATOR, root=tmp_path)
    install(WORKER, root=tmp_path)
    told = settings(tmp_path / "etc/sparsync/coordinator.env")
    assert told["SPARSYNC_ADVERTISE"] == "node1.example:7700"
    assert told["SPARSYNC_OPTIONS"] == "--tls-crl /etc/sparsync/crl.pem"
    assert "servers = 2" in (tmp_path / "etc/sparsync/run.toml").read_text()
    assert settings(tmp_path / "etc/sparsync/worker-0.env") == {
        "SPARSYNC_DEVICE": "cuda:0",
        "SPARSYNC_SCRIPT": "",
    }


def test_once_more_changes_nothing(tmp_path: Path) -> None:
    install(PS, root=tmp_path)
    assert {d.what for d in install(PS, root=tmp_path)} == {SAME, MISSING}


def test_units_are_ours_and_settings_are_not(tmp_path: Path) -> None:
    install(PS, root=tmp_path)
    unit, env = tmp_path / UNITS / "sparsync-ps@.service", tmp_path / "etc/sparsync/ps.env"
    unit.write_text("an older one")
    env.write_text("SPARSYNC_COORDINATOR=elsewhere:1\n")
    done = install(PS, root=tmp_path)
    assert paths(done, CHANGED) == {"/etc/systemd/system/sparsync-ps@.service"}
    assert paths(done, KEEPS) == {"/etc/sparsync/ps.env"}
    assert env.read_text() == "SPARSYNC_COORDINATOR=elsewhere:1\n"
    assert "[Service]" in unit.read_text()


def test_a_dry_run_says_the_same_and_writes_nothing(tmp_path: Path) -> None:
    dry = install(PS, root=tmp_path, dry=True)
    assert list(tmp_path.iterdir()) == []
    assert dry == install(PS, root=tmp_path)
    assert paths(dry, WROTE) >= {"/etc/sparsync/ps.env", "/etc/sysusers.d/sparsync.conf"}


def test_certificates_that_are_there_are_not_asked_for(tmp_path: Path) -> None:
    install(PS, root=tmp_path)
    for name in ("ca.pem", "cert.pem"):
        (tmp_path / "etc/sparsync/tls/ps" / name).write_text("")
    assert paths(install(PS, root=tmp_path), MISSING) == {"/etc/sparsync/tls/ps/key.pem"}


def test_another_user_and_another_program(tmp_path: Path) -> None:
    node = Node("coordinator", name="n", host="n", user="trainer", program="/usr/local/bin/sparsync")
    done = install(node, root=tmp_path)
    unit = (tmp_path / UNITS / "sparsync-coordinator.service").read_text()
    assert "\nUser=trainer\n" in unit
    assert "ExecStart=/usr/local/bin/sparsync coordinator" in unit
    assert "/etc/sysusers.d/sparsync.conf" not in {str(d.path) for d in done}, "that one is there already"


def test_what_services_do_not_see_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="below /home, which services do not see; install Sparsync into"):
        refuse_hidden("/home/me/.venv/bin/sparsync")
    with pytest.raises(UsageError, match="/root/"):
        refuse_hidden("/opt/sparsync/bin/sparsync", Path("/root/.pyenv/bin/python"))
    refuse_hidden("/opt/sparsync/bin/sparsync", Path("/usr/bin/python3.11"), Path("/homes/x"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"role": "ps"}, "--role ps needs --coordinator HOST:PORT"),
        ({"role": "coordinator", "program": "sparsync"}, "expected an absolute path"),
        ({"role": "coordinator", "host": 'a"b'}, "double quote"),
    ],
)
def test_what_makes_no_sense_is_refused(fields: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Node(**({"name": "n", "host": "n"} | fields))


def test_removal_leaves_what_is_the_machines(tmp_path: Path) -> None:
    install(PS, root=tmp_path)
    (tmp_path / "var/lib/sparsync/ps-1").mkdir(parents=True)
    done = remove(root=tmp_path)
    assert [p for p in (tmp_path / UNITS).rglob("*") if p.is_file()] == []
    assert paths(done, KEEPS) == {"/etc/sparsync", "/var/lib/sparsync"}
    assert (tmp_path / "etc/sparsync/ps.env").exists()
    assert paths(remove(root=tmp_path, purge=True), REMOVED) == {"/etc/sparsync", "/var/lib/sparsync"}
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []
    assert remove(root=tmp_path, purge=True) == []


def test_what_is_enabled_is_not_removed(tmp_path: Path) -> None:
    install(PS, root=tmp_path)
    wants = tmp_path / UNITS / "sparsync.target.wants"
    wants.mkdir()
    (wants / "sparsync-ps@1.service").symlink_to("/etc/systemd/system/sparsync-ps@.service")
    with pytest.raises(UsageError, match=r"systemctl disable --now sparsync-ps@1\.service"):
        remove(root=tmp_path)
    assert (tmp_path / UNITS / "sparsync-ps@.service").exists()


def test_dry_removal_removes_nothing(tmp_path: Path) -> None:
    install(PS, root=tmp_path)
    before = sorted(tmp_path.rglob("*"))
    done = remove(root=tmp_path, purge=True, dry=True)
    assert sorted(tmp_path.rglob("*")) == before
    assert "/etc/sparsync" in paths(done, REMOVED)


def test_by_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from sparsync.cli import run

    words = ["--name", "node1", "--program", "/opt/sparsync/bin/sparsync", "--root", str(tmp_path), "--json"]
    assert run(["node", "install", "--role", "coordinator", *words]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["commands"][-1] == "systemctl enable --now sparsync.target sparsync-coordinator.service"
    assert {"path": "/etc/sparsync/run.toml", "what": "wrote", "why": ""} in told["paths"]
    assert run(["node", "install", "--role", "worker", *words]) == 64
    assert "needs --coordinator" in capsys.readouterr().err
    assert run(["node", "remove", "--root", str(tmp_path)]) == 0
    out = capsys.readouterr()
    assert "removed  /etc/systemd/system/sparsync.target" in out.out
    assert "systemctl daemon-reload" in out.err
