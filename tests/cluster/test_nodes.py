"""Three machines, from nothing to a run over mutual TLS; one of them drained, one lost, one revoked.

The machines are network namespaces behind a bridge; each runs the ExecStart lines of its own units, and is heard as a
service manager hears it.
"""

from __future__ import annotations

import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sparsync.bench.modes.links import FIRST_WORKER, SUBNET, Network, namespaces
from tests.cluster.units import PROGRAM, Machine, words_of
from wire.errors import Interrupted

SCRIPT = Path(__file__).parent / "scripts" / "small.py"
RUN = """\
[run]
steps = 100000
[cluster]
servers = 1
workers = 3
[durability]
replicas = 1
"""
RATE = 1e9
NAMES = ("node1", "node2", "node3")
COORDINATOR, PS, WORKER = "sparsync-coordinator.service", "sparsync-ps@0.service", "sparsync-worker@0.service"


def test_command_lines_are_read_as_systemd_reads_them() -> None:
    environ = {"A": "one two", "B": "", "C": "--x 'a b'"}
    assert words_of("run --a ${A} $A $B --b=${B} $C ${A}.ps0", environ) == [
        "run", "--a", "one two", "one", "two", "--b=", "--x", "a b", "one two.ps0",
    ]  # fmt: skip


class Nodes:
    """Three machines and an operator, who sits at the first."""

    def __init__(self, directory: Path, within: tuple[tuple[str, ...], ...], environ: dict[str, str]) -> None:
        hosts = {name: f"{SUBNET}{FIRST_WORKER + i}" for i, name in enumerate(NAMES)}
        self.environ = environ
        self.authority = directory / "certs"
        self.machines = {
            name: Machine(name, directory / name, within=enter, hosts=hosts)
            for name, enter in zip(NAMES, within, strict=True)
        }
        self.first = self.machines["node1"]

    def sparsync(self, *words: str) -> str:
        """A command of the operator's; what it says."""
        done = self.first.run(PROGRAM, *words, environ=self.environ)
        assert done.returncode == 0, f"sparsync {' '.join(words)}: {done.returncode}\n{done.stderr}"
        return done.stdout

    def issue(self, role: str, name: str) -> Path:
        self.sparsync("certs", "issue", "--dir", str(self.authority), "--role", role, "--name", name)
        return self.authority / f"{role}-{name}"

    def install(self, name: str, role: str, **options: object) -> None:
        """A role, with its certificate."""
        machine = self.machines[name]
        machine.install(role, coordinator="node1:7700", **options)
        issued = self.issue(role, name)
        shutil.copytree(issued, machine.root / "etc/sparsync/tls" / role, dirs_exist_ok=True)
        shutil.rmtree(issued)

    def tell_revoked(self) -> None:
        """Copy the authority's list to where the coordinator looks."""
        path = self.first.root / "etc/sparsync/crl.pem"
        partial = path.with_suffix(".partial")
        shutil.copy(self.authority / "crl.pem", partial)
        partial.replace(path)

    def operate(self, *words: str) -> str:
        """A command for the live run."""
        pems = self.authority / "operator-me"
        flags = [w for f in ("ca", "cert", "key") for w in (f"--tls-{f}", str(pems / f"{f}.pem"))]
        return self.sparsync(*words, "--coordinator", "node1:7700", *flags)

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.operate("status", "--json"))
        return found

    def wait_for_more_steps(self, steps: int) -> None:
        """So many steps from now on."""
        self.wait_for_step(self.status()["step"] + steps)

    def wait_for_step(self, step: int) -> None:
        coordinator = self.first.units[COORDINATOR]
        coordinator.wait_told("STATUS", lambda text: (found := step_in(text)) and found >= step)

    def story(self) -> str:
        return "\n".join(
            f"--- {u.name}: {u.story()}" for m in self.machines.values() for u in m.units.values()
        )

    def close(self) -> None:
        for machine in self.machines.values():
            machine.close()


def step_in(status: str) -> int:
    """Of a coordinator's line of status; 0 where there is none."""
    words = status.split()
    return int(words[words.index("step") + 1]) if "step" in words[:-1] else 0


@pytest.fixture
def nodes(environ: dict[str, str]) -> Iterator[Nodes]:
    if why_not := Network().why_not:
        pytest.skip(f"no network namespaces here: {why_not}")
    directory = Path(tempfile.mkdtemp(prefix="nodes-"))  # paths of sockets are short
    with namespaces(RATE, workers=len(NAMES)) as lines:
        nodes = Nodes(directory, lines.workers, environ)
        try:
            yield nodes
        finally:
            nodes.close()
    shutil.rmtree(directory)


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.root
@pytest.mark.timeout(1200)
def test_three_machines_from_nothing_to_a_run(nodes: Nodes) -> None:
    compile_once(nodes)
    set_up(nodes)
    start_all(nodes)
    all_are_at_work(nodes)
    the_coordinator_is_away(nodes)
    one_is_drained_and_comes_back(nodes)
    one_is_lost(nodes)
    one_is_revoked(nodes)
    it_ends(nodes)


def compile_once(nodes: Nodes) -> None:
    """Machines come up with their kernels compiled: six processes at once would take minutes for it here."""
    cache = "/var/cache/sparsync/numba"
    compiling = (sys.executable, "-m", "wire.codec.kernels")
    done = nodes.first.run(*compiling, environ={**nodes.environ, "NUMBA_CACHE_DIR": cache}, limit_s=300)
    assert done.returncode == 0, done.stderr
    for name in NAMES[1:]:
        shutil.copytree(nodes.first.root / cache.lstrip("/"), nodes.machines[name].root / cache.lstrip("/"))


def set_up(nodes: Nodes) -> None:
    nodes.sparsync("certs", "init", str(nodes.authority))
    nodes.issue("operator", "me")
    etc = nodes.first.root / "etc/sparsync"
    etc.mkdir()
    (etc / "run.toml").write_text(RUN)
    nodes.tell_revoked()
    nodes.install("node1", "coordinator")
    for name in ("node1", "node2"):
        nodes.install(name, "ps")
    for name in NAMES:
        nodes.install(name, "worker", device="cpu", script=str(SCRIPT))


def start_all(nodes: Nodes) -> None:
    """In the order of the machines' coming up: nobody waits for anybody by hand."""
    for name in reversed(NAMES):
        machine = nodes.machines[name]
        for unit in (WORKER, PS, COORDINATOR):
            file = unit.replace("@0", "@")
            if (machine.root / "etc/systemd/system" / file).exists():
                machine.start(unit, nodes.environ)


def all_are_at_work(nodes: Nodes) -> None:
    """Started, in the run, feeding their watchdogs; nobody without a certificate sees anything of it."""
    units = [unit for machine in nodes.machines.values() for unit in machine.units.values()]
    assert len(units) == 6
    for unit in units:
        assert unit.wait_told("READY") == "1"
    nodes.wait_for_step(5)
    for unit in units:
        unit.wait_told("WATCHDOG")
        unit.wait_more("WATCHDOG")
    for machine in nodes.machines.values():
        worker = machine.units[WORKER]
        worker.wait_told("STATUS", lambda text: "s a unit" in text)
        limits = worker.told("WATCHDOG_USEC")
        assert int(limits[0]) == 86_400_000_000, "before its loop"
        assert int(limits[-1]) == 120_000_000, "twice cluster.progress_timeout_s"
    nodes.first.units[COORDINATOR].wait_told("STATUS", lambda text: " 3/3 workers " in text)
    shards = [nodes.machines[name].units[PS] for name in ("node1", "node2")]
    parts = {unit.wait_told("STATUS", lambda text: "shard 0" in text).split()[4] for unit in shards}
    assert parts == {"primary", "standby"}
    assert sorted(w["name"] for w in nodes.status()["workers"]) == [f"{name}.w0" for name in NAMES]
    plain = nodes.first.run(PROGRAM, "status", "--coordinator", "node1:7700", environ=nodes.environ)
    assert plain.returncode != 0


def the_coordinator_is_away(nodes: Nodes) -> None:
    """As at a reboot: whoever waits for it is not taken for stuck, and the run goes on with the next one."""
    step = step_in(nodes.first.units[COORDINATOR].told("STATUS")[-1])
    gone = nodes.first.units[COORDINATOR].process
    gone.send_signal(signal.SIGUSR1)
    assert gone.wait(60) == 0, nodes.story()
    for name in NAMES:
        worker = nodes.machines[name].units[WORKER]
        for _ in range(3):
            worker.wait_more("WATCHDOG")
    assert not (nodes.first.root / "var/lib/sparsync/runs/first/summary.json").exists()
    nodes.first.start(COORDINATOR, nodes.environ).wait_told("READY")
    nodes.wait_for_step(step + 5)


def one_is_drained_and_comes_back(nodes: Nodes) -> None:
    drained = nodes.machines["node3"].units[WORKER]
    nodes.operate("drain", "node3.w0")
    assert drained.wait_ended() == 0, drained.story()
    assert drained.told("STOPPING") == ["1"]
    nodes.wait_for_more_steps(2)
    nodes.machines["node3"].start(WORKER, nodes.environ).wait_told("READY")
    nodes.wait_for_more_steps(2)


def one_is_lost(nodes: Nodes) -> None:
    """A worker, and a server whose shard another machine has too."""
    nodes.machines["node2"].lose()
    nodes.wait_for_more_steps(5)
    status = nodes.status()
    assert {w["name"]: w["state"] for w in status["workers"]}["node2.w0"] == "dead"
    assert [s["name"] for s in status["servers"] if s["role"] == "primary"] == ["node1.ps0"]


def one_is_revoked(nodes: Nodes) -> None:
    """Its live calls end, and it is let in no more; the rest goes on."""
    revoked = nodes.machines["node3"].units[WORKER]
    nodes.sparsync("certs", "revoke", "worker/node3", "--dir", str(nodes.authority))
    nodes.tell_revoked()
    code = revoked.wait_ended(limit_s=60)
    assert code not in (0, Interrupted.exit_code), revoked.story()
    again = nodes.machines["node3"].start(WORKER, nodes.environ)
    assert again.wait_ended(limit_s=90) == code, again.story()
    assert not again.told("READY")
    nodes.wait_for_more_steps(5)
    audited = (nodes.first.root / "var/lib/sparsync/runs/first/audit.jsonl").read_text()
    assert any("node3" in line for line in audited.splitlines()), audited


def it_ends(nodes: Nodes) -> None:
    """An operator ends it: every unit ends in a way that is not started again."""
    nodes.operate("stop")
    left = [nodes.first.units[unit] for unit in (COORDINATOR, PS, WORKER)]
    assert {unit.wait_ended() for unit in left} <= {0, Interrupted.exit_code}, nodes.story()
    summary = json.loads((nodes.first.root / "var/lib/sparsync/runs/first/summary.json").read_text())
    assert summary["steps"] > 0
