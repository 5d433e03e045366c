"""The README's way to a run on two machines: its commands as they are printed, one machine standing for both."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.cluster.running import POLL_S, SPARSYNC
from wire.config import Config

README = Path(__file__).parents[2] / "README.md"
TITLE = "## Run the roles on real machines"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LIMIT_S = 240.0
pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(300)]


def printed(language: str) -> list[list[str]]:
    """The lines of each block of that part of the README."""
    part = README.read_text().partition(TITLE)[2].partition("\n## ")[0]
    return [text.splitlines() for found, text in BLOCK.findall(part) if found == language]


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


class Reader:
    """Whoever follows the page: a directory for each machine, and one for the reader's own.

    Args:
        small: environment of the coordinator; it makes the run short, which the page does not.
    """

    def __init__(self, base: Path, environ: Mapping[str, str], small: Mapping[str, str]) -> None:
        self.base, self.environ, self.small = base, environ, small
        self.ports = {"7700": str(free_port()), "7701": str(free_port())}
        for machine in ("own", "host-a", "host-b"):
            (base / machine).mkdir()

    def here(self, line: str) -> str:
        """A line with addresses of this machine, and with ports that nobody else has."""
        line = re.sub(
            r"\b(?:host-[ab]|0\.0\.0\.0):(\d+)", lambda found: f"127.0.0.1:{self.ports[found[1]]}", line
        )
        return line.replace("sparsync", shlex.join(SPARSYNC), 1)

    def run(self, line: str) -> str:
        """A command of the reader's, at home; what it prints."""
        done = subprocess.run(
            shlex.split(self.here(line)),
            cwd=self.base / "own", env=self.environ, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        return done.stdout

    def copy(self, line: str) -> None:
        """`scp -r DIR… host-x:`"""
        program, flag, *sources, target = line.split()
        assert (program, flag, target[-1]) == ("scp", "-r", ":")
        for source in sources:
            shutil.copytree(self.base / "own" / source, self.base / target[:-1] / Path(source).name)

    @contextmanager
    def role(self, line: str) -> Iterator[subprocess.Popen[bytes]]:
        """A role where the page has it run."""
        role = line.split()[1]
        machine = self.base / ("host-a" if role == "coordinator" else "host-b")
        environ = {**self.environ, **(self.small if role == "coordinator" else {})}
        with (machine / f"{role}.log").open("wb") as talk:
            process = subprocess.Popen(shlex.split(self.here(line)), cwd=machine, env=environ, stderr=talk)
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def log(self) -> str:
        return "\n".join(path.read_text() for path in sorted(self.base.glob("host-*/*.log")))


def test_from_the_readme_to_a_run_on_two_machines(
    tmp_path: Path, environ: dict[str, str], settings: dict[str, object]
) -> None:
    small = {f"SPARSYNC_{key.upper().replace('.', '__')}": str(value) for key, value in settings.items()}
    reader = Reader(tmp_path, environ, small)
    issued, copied, roles, looked = printed("sh")
    for line in issued:
        reader.run(line)
    for line in copied:
        reader.copy(line)
    (configuration,) = printed("toml")
    (tmp_path / "host-a" / "run.toml").write_text("\n".join(configuration))
    with ExitStack() as living:
        processes = [living.enter_context(reader.role(line)) for line in roles]
        address = tmp_path / "host-a" / "coordinator-data" / "address"
        deadline = time.monotonic() + LIMIT_S
        while not address.exists():
            assert time.monotonic() < deadline and processes[0].poll() is None, reader.log()
            time.sleep(POLL_S)
        (look,) = looked
        shown = json.loads(reader.run(f"{look} --json"))
        assert shown["insecure"] is False
        codes = [process.wait(deadline - time.monotonic()) for process in processes]
    assert codes == [0, 0, 0], reader.log()
    summary = json.loads((address.parent / "summary.json").read_text())
    assert (summary["steps"], summary["servers"], summary["workers"]) == (settings["run.steps"], 1, 1)
    assert summary["steps"] != Config().run.steps, "it was made short"
