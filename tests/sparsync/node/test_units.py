"""The units that are shipped: what systemd says of them; that they agree with code and with each other."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from sparsync.cli import root as sparsync
from sparsync.exits import FINAL
from sparsync.node.install import install
from sparsync.node.plan import PROGRAM, SHIPPED, UNIT_OF, Node
from wire.errors import Interrupted, StaleIncarnation

ROOT = Path(__file__).resolve().parents[3]
EXPOSURE = {"coordinator": 1.5, "ps": 2.0, "worker": 2.5}
"""Most that `systemd-analyze security` may find, of 10."""
systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


def unit(role: str) -> list[tuple[str, str]]:
    """(key, value) of all settings."""
    lines = (SHIPPED / UNIT_OF[role]).read_text().splitlines()
    return [
        (key, value)
        for key, equals, value in (line.partition("=") for line in lines if not line.startswith("#"))
        if equals
    ]


def only(role: str, key: str) -> str:
    (value,) = (v for k, v in unit(role) if k == key)
    return value


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """All roles, installed for this interpreter."""
    for role in UNIT_OF:
        node = Node(role, name="n", host="n", coordinator="n:1", program=sys.executable)
        install(node, root=tmp_path)
    return tmp_path / "etc/systemd/system"


@systemd
def test_systemd_has_nothing_to_say_against_them(machine: Path) -> None:
    files = sorted(map(str, machine.glob("sparsync*")))
    assert len(files) == 5
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *files], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@systemd
@pytest.mark.parametrize("role", EXPOSURE)
def test_they_are_shut_off(machine: Path, role: str) -> None:
    command = ["systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE[role] * 10:.0f}"]
    done = subprocess.run(
        [*command, str(machine / UNIT_OF[role])], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-600:]
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout + done.stderr)
    assert found is not None
    assert float(found[1]) <= EXPOSURE[role]


@systemd
def test_the_threshold_bites(machine: Path) -> None:
    (machine / "open.service").write_text("[Service]\nExecStart=/bin/true\n")
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=25"]
    done = subprocess.run([*command, str(machine / "open.service")], capture_output=True, check=False)
    assert done.returncode != 0


def test_what_deploy_shows_is_what_is_installed() -> None:
    assert (ROOT / "deploy" / "systemd").resolve() == SHIPPED.resolve()


@pytest.mark.parametrize("role", UNIT_OF)
def test_their_options_exist(role: str) -> None:
    words = shlex.split(only(role, "ExecStart"))
    assert words[:2] == [PROGRAM, role]
    command = sparsync.get_command(click.Context(sparsync), role)
    assert command is not None
    known = {option for parameter in command.params for option in parameter.opts}
    assert [w for w in words if w.startswith("--") and w not in known] == []


@pytest.mark.parametrize("role", UNIT_OF)
def test_every_variable_is_set_by_what_is_installed(role: str, tmp_path: Path) -> None:
    install(Node(role, name="n", host="n", coordinator="n:1"), root=tmp_path)
    files = [v.replace("%i", "0") for k, v in unit(role) if k == "EnvironmentFile"]
    text = "".join((tmp_path / file.lstrip("/")).read_text() for file in files)
    used = set(re.findall(r"\$\{?(SPARSYNC_\w+)", only(role, "ExecStart")))
    assert used
    assert used == set(re.findall(r"^(\w+)=", text, re.MULTILINE))


@pytest.mark.parametrize("role", UNIT_OF)
def test_they_are_started_again_by_exit_code(role: str) -> None:
    page = (ROOT / "docs" / "exit-codes.md").read_text()
    never = {int(code) for code in re.findall(r"^\| \[(\d+)\].*\| no \|$", page, re.MULTILINE)}
    never -= {0, Interrupted.exit_code}
    assert never > FINAL
    if role == "coordinator":  # another one is at work: this one must not come back
        never |= {StaleIncarnation.exit_code}
    assert {int(code) for code in only(role, "RestartPreventExitStatus").split()} == never
    assert only(role, "SuccessExitStatus").split()[0] == str(Interrupted.exit_code)
    assert only(role, "Restart") == "on-failure"


@pytest.mark.parametrize("role", UNIT_OF)
def test_they_tell_of_themselves_and_are_watched(role: str) -> None:
    assert (only(role, "Type"), only(role, "NotifyAccess")) == ("notify", "main")
    assert only(role, "WatchdogSec")


@pytest.mark.parametrize("role", UNIT_OF)
def test_keys_come_by_the_service_manager_and_from_nowhere_else(role: str) -> None:
    credentials = dict(value.split(":", 1) for key, value in unit(role) if key == "LoadCredential")
    assert credentials == {name: f"/etc/sparsync/tls/{role}/{name}.pem" for name in ("ca", "cert", "key")}
    given = [v for k, v in unit(role) if k == "Environment" and "TLS" in v]
    assert given == [f"SPARSYNC_SECURITY__TLS_{name.upper()}=%d/{name}" for name in ("ca", "cert", "key")]
    assert "key" not in only(role, "ExecStart")


def test_only_who_writes_machine_code_may() -> None:
    assert only("coordinator", "MemoryDenyWriteExecute") == "yes"
    assert {"ps", "worker"} == {r for r in UNIT_OF if "MemoryDenyWriteExecute" not in dict(unit(r))}


def test_their_common_sandbox_is_the_same() -> None:
    own = {"PrivateDevices", "ProcSubset", "MemoryDenyWriteExecute", "SystemCallFilter", "DevicePolicy"}
    own |= {"DeviceAllow", "WantedBy"}
    found = []
    for role in UNIT_OF:
        settings = unit(role)
        begin = [key for key, _ in settings].index("User")
        found.append([(k, v) for k, v in settings[begin:] if k not in own])
    assert found[0] == found[1] == found[2]
    assert len(found[0]) > 20


def test_the_wheel_holds_them() -> None:
    others = ["sparsync.slice", "sparsync.sysusers.conf", "sparsync.target", "sparsync.tmpfiles.conf"]
    assert sorted(p.name for p in SHIPPED.iterdir()) == sorted([*UNIT_OF.values(), *others])
    assert SHIPPED.is_relative_to(ROOT / "sparsync"), "hatchling packs whatever lies in the packages"
