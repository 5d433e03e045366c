"""deploy/README.md, line by line: what can be done without machines is done, into one directory a node."""

from __future__ import annotations

import glob
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from sparsync.cli import root, run
from sparsync.node.install import MISSING, install
from sparsync.node.plan import PROGRAM, Node
from wire.config import load

PAGE = (Path(__file__).resolve().parents[3] / "deploy" / "README.md").read_text()
SETTING_UP = PAGE.partition("## Three nodes")[2].partition("## Day by day")[0]
ROLES = {"node1": ("coordinator", "ps"), "node2": ("ps", "worker"), "node3": ("worker",)}


def lines(text: str, *, language: str = "sh") -> Iterator[str]:
    for block in re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        yield from block.splitlines()


def copy(line: str) -> None:
    """`scp FILES root@NODE:/DIRECTORY/`, where machines are directories here."""
    *sources, target = shlex.split(line)[1:]
    node, _, path = target.removeprefix("root@").partition(":")
    for pattern in sources:
        found = glob.glob(pattern)
        assert found, f"{line}: {pattern} is not there"
        for file in found:
            shutil.copy(file, Path(node) / path.lstrip("/"))


def node_of(line: str) -> str:
    words = shlex.split(line)
    return words[words.index("--name") + 1]


@pytest.fixture
def set_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All steps until the services would be started."""
    monkeypatch.chdir(tmp_path)
    for line in lines(SETTING_UP):
        if line.startswith("sparsync node install"):
            here = ["--root", node_of(line), "--program", PROGRAM]
            assert run([*shlex.split(line)[1:], *here]) == 0, line
        elif line.startswith("sparsync certs"):
            assert run(shlex.split(line)[1:]) == 0, line
        elif line.startswith("scp"):
            copy(line)
        elif line.startswith("rm -r certs/"):
            for directory in shlex.split(line)[2:]:
                shutil.rmtree(directory)
    return tmp_path


def test_nothing_is_missing_after_the_last_step(set_up: Path) -> None:
    for name, roles in ROLES.items():
        for role in roles:
            node = Node(role, name=name, host=name, coordinator="node1:7700")
            done = install(node, root=set_up / name)
            assert [str(d.path) for d in done if d.what == MISSING] == []
    assert sorted(p.name for p in (set_up / "certs").iterdir()) == [
        "ca.key",
        "ca.pem",
        "crl.pem",
        "issued",
        "operator-me",
    ], "no key of a node is left with the authority"


def test_instances_and_scripts_are_those_of_the_page(set_up: Path) -> None:
    files = sorted(p.name for p in (set_up / "node3/etc/sparsync").glob("*.env"))
    assert files == ["worker-0.env", "worker-1.env", "worker.env"]
    text = (set_up / "node3/etc/sparsync/worker-1.env").read_text()
    assert "SPARSYNC_SCRIPT=/srv/sparsync/train.py --lr 3e-4\n" in text
    assert "SPARSYNC_DEVICE=cuda:1\n" in text


def test_the_run_of_the_page_is_a_run_of_these_machines(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text("\n".join(lines(SETTING_UP, language="toml")))
    cluster = load(path, (), {}).config.cluster
    started = [line for line in lines(SETTING_UP) if "node install" in line]
    assert cluster.servers == sum("--role ps" in line for line in started)
    assert cluster.workers == sum("--role worker" in line for line in started)


def test_the_commands_that_follow_are_those_that_are_told() -> None:
    node = Node("coordinator", name="node1", host="node1")
    (enabling,) = (line for line in lines(SETTING_UP) if line.startswith("systemctl enable"))
    assert [line for line in node.commands[:-1] if line not in lines(SETTING_UP)] == []
    assert enabling == f"{node.commands[-1]} sparsync-ps@0.service"


def test_metrics_take_no_other_option_away(set_up: Path) -> None:
    text = (set_up / "node1/etc/sparsync/coordinator.env").read_text()
    (options,) = re.findall(r"^SPARSYNC_OPTIONS=.+$", text, re.MULTILINE)
    assert f"| `coordinator.env` | `{options} --metrics 0.0.0.0:7790` |" in PAGE
    own = sorted((set_up / "node2/etc/sparsync").glob("*-*.env"))
    assert [path.name for path in own] == ["ps-0.env", "worker-0.env"]
    for path in own:
        assert f"\n# {metrics_variable()}=0.0.0.0:PORT\n" in path.read_text()
        assert f"| `{path.name}` | `{metrics_variable()}=0.0.0.0:" in PAGE


def metrics_variable() -> str:
    """From which a server and a worker take `--metrics`."""
    variables = set()
    for role in ("ps", "worker"):
        command = root.get_command(click.Context(root), role)
        assert command is not None
        variables |= {str(p.envvar) for p in command.params if p.name == "metrics"}
    (variable,) = variables
    return variable


def test_every_examination_by_doctor_shows_a_certificate() -> None:
    lines_of_it = re.findall(r"`(sparsync doctor --coordinator[^`]*)`", PAGE)
    assert lines_of_it
    for line in lines_of_it:
        assert {"--tls-ca", "--tls-cert", "--tls-key"} <= set(shlex.split(line))


def test_every_node_gets_the_tested_versions() -> None:
    installed = [line for line in lines(PAGE) if "pip install" in line]
    assert len(installed) == 2
    assert [line for line in installed if "-c constraints.txt" not in line] == []


def test_what_a_table_says_of_the_sandbox_is_held_by_a_test() -> None:
    from tests.sparsync.node.test_units import EXPOSURE

    limits = " and ".join(f"{limit}" for limit in list(EXPOSURE.values())[1:])
    assert f"hold them to {EXPOSURE['coordinator']}, {limits}" in PAGE
