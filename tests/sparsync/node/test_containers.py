"""What reading tells of the container files: no root, no key in an image, a check of each role's health."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click

from sparsync.cli import root as sparsync

ROOT = Path(__file__).resolve().parents[3]
CONTAINERFILE = (ROOT / "deploy" / "Containerfile").read_text()
COMPOSE = (ROOT / "deploy" / "compose.yaml").read_text()


def test_the_image_runs_as_nobody_in_particular() -> None:
    users = re.findall(r"^USER (.+)$", CONTAINERFILE, re.MULTILINE)
    assert users == ["10001"]
    assert COMPOSE.count('user: "10001"') == 1
    for part in ("read_only: true", "cap_drop: [ALL]", "no-new-privileges:true"):
        assert part in COMPOSE


def copied() -> list[str]:
    return [
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", CONTAINERFILE, re.MULTILINE)
        for source in shlex.split(line)[:-1]
    ]


def test_what_is_copied_exists_and_holds_no_keys() -> None:
    assert {"sparsync", "coordinator", "ps", "worker", "wire", "pyproject.toml"} <= set(copied())
    assert [source for source in copied() if not (ROOT / source).exists()] == []
    assert "." not in copied(), "certs/ may lie beside them"


def test_a_builder_is_sent_what_is_copied_and_nothing_else() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    patterns = [line for line in lines if not line.startswith("#")]
    assert patterns[0] == "*"
    assert sorted(f"!{source}" for source in copied()) == [p for p in patterns if p.startswith("!")]


def test_each_service_has_its_own_certificate_and_a_check() -> None:
    services = re.split(
        r"^  (?=[\w-]+:$)",
        COMPOSE.partition("\nservices:\n")[2].partition("\nvolumes:\n")[0],
        flags=re.MULTILINE,
    )
    found = {body.partition(":")[0]: body for body in services if body.strip()}
    assert set(found) == {"coordinator", "ps-0", "ps-1", "worker-0"}
    for name, body in found.items():
        assert body.count(":/tls:ro") == 1 and f"{name}:/tls:ro" in body
        assert "healthcheck:" in body or "<<: *server" in body
    assert "stop_signal: SIGUSR1" in found["coordinator"]


def test_options_of_commands_exist() -> None:
    commands = re.findall(r"command: \[(.+?)\]", COMPOSE, re.DOTALL)
    assert len(commands) == 4
    for text in commands:
        words = [w.strip().strip('"') for w in text.replace("\n", " ").split(",")]
        command = sparsync.get_command(click.Context(sparsync), words[0])
        assert command is not None
        known = {option for parameter in command.params for option in parameter.opts}
        assert [w for w in words if w.startswith("-") and w not in known] == []
