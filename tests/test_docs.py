"""What the documents say of commands, paths, links, code, RPCs and keys is so; the main example runs as it stands."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import click
import pytest

from sparsync.cli import COMMANDS, root
from wire.config import load
from wire.v1 import coordinator_pb2, shard_pb2

ROOT = Path(__file__).resolve().parents[1]
PLACES = ("*.md", "docs/**/*.md", "proto/*.md", "examples/*.md", "deploy/*.md")
PAGES = sorted(path for pattern in PLACES for path in ROOT.glob(pattern))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
SOURCE_PATH = re.compile(r"(?:[\w.-]+/)+[\w.-]*|[\w-]+\.(?:md|toml|txt)|Makefile")
TOP = {path.name for path in ROOT.iterdir()} - {"certs", "runs"}
"""What lies at the root, but for what the guides have people make there."""


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    return [text for found, text in FENCE.findall(page.read_text(encoding="utf-8")) if found == language]


def shell_lines() -> list[tuple[str, str]]:
    """(page, line) of every line in a block that is marked `sh`."""
    return [
        (name(page), line)
        for page in PAGES
        for block in blocks(page, "sh")
        for line in block.splitlines()
        if line.strip() and not line.startswith("#")
    ]


def resolve(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that `sparsync WORDS…` calls, and the words that are left for it."""
    command: click.Command = root
    while isinstance(command, click.Group) and words:
        context = click.Context(command)
        found = command.get_command(context, words[0])
        assert found is not None, f"sparsync has no command {words[0]!r}"
        command, words = found, words[1:]
    return command, words


# --- commands --------------------------------------------------------------------------------


@pytest.mark.parametrize(("page", "line"), shell_lines())
def test_shell_lines_call_what_there_is(page: str, line: str) -> None:
    assert subprocess.run(["bash", "-n", "-c", line], capture_output=True, check=False).returncode == 0
    words = shlex.split(line, comments=True)
    if words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert [w for w in words[1:] if "=" not in w and w not in targets] == []
    if words[0] == "sparsync":
        check_sparsync_line(words[1:])


def check_sparsync_line(words: list[str]) -> None:
    """Options exist, `-s` sets keys that exist, named scripts of ours are there."""
    ours, script = (
        (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    )
    command, rest = resolve(ours)
    known = {option for parameter in command.params for option in parameter.opts}
    assert [w for w in rest if w.startswith("-") and w.partition("=")[0] not in known] == []
    overrides = [value for flag, value in pairwise(rest) if flag in ("-s", "--set")]
    load(None, overrides, {})
    assert all((ROOT / w).is_file() for w in script if w.startswith("examples/"))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_in_running_text_exist(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for code in CODE.findall(text):
        words = code.split()
        if words[0] != "sparsync" or len(words) < 2 or not re.fullmatch("[a-z]+", words[1]):
            continue
        assert words[1] in COMMANDS, code
        resolve([w for w in words[1:3] if re.fullmatch(r"[a-z]+", w)])


def test_every_command_is_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [command for command in COMMANDS if f"`sparsync {command}" not in text] == []


# --- links and paths ---------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_internal_links_resolve(page: Path) -> None:
    targets = [t for t in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in t]
    broken = [t for t in targets if t[0] != "#" and not (page.parent / t.partition("#")[0]).exists()]
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_paths_that_are_named_exist(page: Path) -> None:
    """In backticks, and beginning with something that lies at the root; `N` and globs stand for many."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    paths = [c for c in CODE.findall(text) if SOURCE_PATH.fullmatch(c) and c.split("/")[0] in TOP]
    assert [p for p in paths if not (ROOT / p).exists()] == []


def test_architecture_is_short() -> None:
    assert len((ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").splitlines()) <= 200


def test_every_decision_is_listed() -> None:
    directory = ROOT / "docs" / "decisions"
    listed = LINK.findall((directory / "README.md").read_text(encoding="utf-8"))
    assert sorted(listed) == sorted(p.name for p in directory.glob("0*.md"))


# --- code ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_python_blocks_compile(page: Path) -> None:
    for block in blocks(page, "python"):
        compile(block, name(page), "exec")


def test_the_readme_shows_the_diff_of_the_examples() -> None:
    (shown,) = blocks(ROOT / "README.md", "diff")
    (told,) = blocks(ROOT / "examples" / "README.md", "diff")
    assert shown == told


@pytest.mark.cluster
def test_the_main_example_runs(tmp_path: Path) -> None:
    example = blocks(ROOT / "docs" / "api.md", "python")[0]
    (tmp_path / "example.py").write_text(example, encoding="utf-8")
    command = ["sparsync", "train", "--json", "--out", "run", "-s", "run.steps=6", "--servers", "1"]
    done = subprocess.run(
        [sys.executable, "-m", *command, "--", "example.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["steps"], summary["units_settled"], summary["samples"]) == (6, 24, 192)
    assert summary["params"] == 8 * 32 + 32 + 32 + 1


def test_every_public_name_of_a_session_is_explained() -> None:
    tree = ast.parse((ROOT / "worker" / "session.py").read_text(encoding="utf-8"))
    (session,) = (n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "Session")
    names = {n.name for n in session.body if isinstance(n, ast.FunctionDef) and not n.name.startswith("_")}
    names |= {
        n.target.attr
        for n in ast.walk(session)
        if isinstance(n, ast.AnnAssign)
        and isinstance(n.target, ast.Attribute)
        and not n.target.attr.startswith("_")
    }
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    explained = set(re.findall(r"`session\.(\w+)\(", text)) | set(
        re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    )
    assert names <= explained


# --- the contract ----------------------------------------------------------------------------------


def test_every_rpc_is_in_the_protocol() -> None:
    text = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
    services = [
        service
        for file in (coordinator_pb2.DESCRIPTOR, shard_pb2.DESCRIPTOR)
        for service in file.services_by_name.values()
    ]
    assert len(services) == 2
    methods = [method.name for service in services for method in service.methods]
    assert [method for method in methods if f"| `{method}` |" not in text] == []


def report_keys() -> set[str]:
    """Keys of all dictionaries that coordinator/report.py writes down, and what the launcher adds."""
    tree = ast.parse((ROOT / "coordinator" / "report.py").read_text(encoding="utf-8"))
    functions = [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
        and node.name in ("status", "summary", "totals", "_worker", "_server")
    ]
    literals = [n for f in functions for n in ast.walk(f) if isinstance(n, ast.Dict)]
    keys = {k.value for d in literals for k in d.keys if isinstance(k, ast.Constant)}
    return {str(k) for k in keys if k != "0"} | {"restarts"}


def test_every_key_of_status_and_summary_is_explained() -> None:
    text = (ROOT / "docs" / "status.md").read_text(encoding="utf-8")
    rows = [
        line.split("|")[1] for line in text.partition("## Run directory")[0].splitlines() if line[:3] == "| `"
    ]
    explained = {key for row in rows for key in CODE.findall(row)}
    assert explained == report_keys()
