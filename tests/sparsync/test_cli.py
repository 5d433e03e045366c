"""The command line and the lazy public API, as a person meets them: in processes of their own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

import sparsync
from sparsync.cli import COMMANDS, LazyGroup, root, run
from sparsync.exits import CRASHED, FENCED, FINAL
from wire import errors
from wire.version import VERSION

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"torch", "pydantic", "grpc", "numba"}


def sparsync_process(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sparsync", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
        timeout=30,
    )


def help_of(*command: str) -> tuple[set[str], float]:
    """The top-level modules that `sparsync COMMAND… --help` imports, and the seconds that it takes."""
    source = f"import sys; from sparsync.cli import run; code = run({[*command, '--help']!r}); " + (
        "print(*sorted({m.partition('.')[0] for m in sys.modules}), file=sys.stderr); sys.exit(code)"
    )
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", source],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=30,
    )
    seconds = time.perf_counter() - start
    assert done.returncode == 0, done.stderr
    assert "Usage: sparsync" in done.stdout or "Usage: " in done.stdout
    return set(done.stderr.split()), seconds


@pytest.mark.parametrize(
    "command",
    [
        *[(), *[(name,) for name in COMMANDS], ("config", "show"), ("config", "check")],
        *[("bench", "codec"), ("bench", "wire")],
    ],
)
def test_help_answers_at_once_and_imports_nothing_heavy(command: tuple[str, ...]) -> None:
    measured = [help_of(*command) for _ in range(3)]
    assert not measured[0][0] & HEAVY
    # The aim is 0.3 s; the bound leaves room for a machine that other tests keep busy.
    assert min(seconds for _, seconds in measured) < 1.0


def test_the_root_help_lists_every_command_without_importing_it() -> None:
    loaded, _ = help_of()
    assert "click" in loaded
    text = sparsync_process("--help").stdout
    for name, entry in COMMANDS.items():
        assert f"  {name} " in text
        assert entry.summary in text


def test_every_command_loads_and_is_named_as_in_the_table() -> None:
    context = click.Context(root, info_name="sparsync")
    assert isinstance(root, LazyGroup)
    for name in COMMANDS:
        command = root.get_command(context, name)
        assert command is not None
        assert command.name == name


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trian"], "No such command 'trian'"),
        (["config", "show", "--colour"], "No such option"),
        (["config", "show", "a", "b"], "unexpected extra argument"),
        ([], "Usage: sparsync"),
    ],
)
def test_a_senseless_command_line_exits_64(arguments: list[str], words: str) -> None:
    done = sparsync_process(*arguments)
    assert done.returncode == errors.UsageError.exit_code == 64
    assert words in done.stderr
    assert done.stdout == ""


def test_a_bad_configuration_exits_78_with_one_line_a_fault() -> None:
    done = sparsync_process("config", "check", "-s", "run.steps=0", "-s", "push.density=2")
    assert done.returncode == 78
    assert [line[:7] for line in done.stderr.splitlines()] == ["error: ", "error: "]
    assert "Traceback" not in done.stderr
    assert sparsync_process("config", "check", "nowhere.toml").returncode == 66
    done = sparsync_process("config", "check", "--json", "-s", "run.steps=0", "-s", "push.density=2")
    found = json.loads(done.stdout)
    assert (done.returncode, found["good"], len(found["faults"])) == (78, False, 2)
    assert json.loads(sparsync_process("config", "check", "--json").stdout) == {"good": True, "faults": []}


def test_options_are_also_known_with_underscores(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    @click.command()
    @click.option("--data-dir")
    @click.option("--kind", type=click.Choice(["a_b"]))
    def probe(data_dir: str, kind: str) -> None:
        seen.extend([data_dir, kind])

    monkeypatch.setattr(LazyGroup, "get_command", lambda *_: probe)
    assert run(["probe", "--data_dir=x_y", "--kind", "a_b"]) == 0
    assert run(["probe", "--data-dir", "x_y", "--kind", "a_b"]) == 0
    assert seen == ["x_y", "a_b"] * 2


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (errors.PortTaken("taken"), 71),
        (errors.RunOver("over"), 0),
        (errors.Interrupted("bye"), 130),
        (KeyboardInterrupt(), 130),
    ],
)
def test_errors_become_exit_codes(
    raised: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @click.command()
    def probe() -> None:
        raise raised

    monkeypatch.setattr(LazyGroup, "get_command", lambda *_: probe)
    assert run(["probe"]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    if isinstance(raised, errors.SparsyncError):
        assert captured.err == f"{'error' if code else 'note'}: {raised}\n"


def test_what_is_no_error_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    def probe() -> None:
        raise ZeroDivisionError("ours to fix")

    monkeypatch.setattr(LazyGroup, "get_command", lambda *_: probe)
    with pytest.raises(ZeroDivisionError, match="ours to fix"):
        run(["probe"])


def test_config_show_tells_values_and_origins() -> None:
    done = sparsync_process("config", "show", "--origin", "-s", "run.steps=60", SPARSYNC_PUSH__DENSITY="0.5")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "steps = 60  # -s run.steps=60" in lines
    assert "density = 0.5  # SPARSYNC_PUSH__DENSITY" in lines
    assert "servers = 2  # default" in lines


def test_config_show_json_has_every_key() -> None:
    done = sparsync_process("config", "show", "--json", "-s", "run.steps=60")
    table = json.loads(done.stdout)
    assert table["run.steps"] == {"value": 60, "origin": "-s run.steps=60"}
    assert table["cluster.min_workers"] == {"value": None, "origin": "default"}
    assert len(table) > 40


def test_the_configuration_page_is_fresh() -> None:
    page = sparsync_process("config", "show", "--markdown").stdout
    assert page == (ROOT / "docs/configuration.md").read_text(), "run `make docs` and commit the result"


EXIT_CODE_ROW = re.compile(r"\| \[(\d+)\]\(exit-codes/(\d+)\.md\) \| (\w+) \| [^|]+ \| (yes|no) \|")


def exit_code_rows() -> dict[int, tuple[str, bool]]:
    """Code -> (name, whether a restart makes sense), of the table in docs/exit-codes.md."""
    rows = EXIT_CODE_ROW.findall((ROOT / "docs/exit-codes.md").read_text())
    assert all(shown == linked for shown, linked, _, _ in rows)
    codes = [int(shown) for shown, _, _, _ in rows]
    assert codes == sorted(set(codes))
    return {int(shown): (name, again == "yes") for shown, _, name, again in rows}


def test_every_error_has_a_page_of_its_exit_code_and_a_row() -> None:
    known = {
        e.exit_code: e.__name__ for e in errors.SparsyncError.__subclasses__() if e is not errors.RunOver
    }
    rows = {code: name for code, (name, _) in exit_code_rows().items()}
    assert rows == {**known, 0: "done", 1: "unexpected"}
    pages = {int(path.stem): path.read_text() for path in (ROOT / "docs/exit-codes").glob("*.md")}
    assert {code: text.splitlines()[0] for code, text in pages.items()} == {
        code: f"# {code}: {name}" for code, name in rows.items()
    }
    for text in pages.values():
        assert [line for line in text.splitlines() if line.startswith("## ")] == [
            "## Seen as",
            "## What to do",
        ]


def test_what_the_pages_say_of_restarts_is_what_the_launcher_does() -> None:
    again = {code for code, (_, restart) in exit_code_rows().items() if restart}
    assert not again & FINAL and CRASHED | {FENCED} <= again


@pytest.mark.parametrize(
    ("unit", "also"), [("coordinator", {FENCED}), ("ps@", set[int]()), ("worker@", set[int]())]
)
def test_what_the_pages_say_of_restarts_is_what_the_units_do(unit: str, also: set[int]) -> None:
    never = {code for code, (_, restart) in exit_code_rows().items() if not restart}
    text = (ROOT / f"deploy/systemd/sparsync-{unit}.service").read_text()
    (found,) = re.findall(r"^RestartPreventExitStatus=(.*)$", text, re.MULTILINE)
    assert {int(code) for code in found.split()} == never - {0, errors.Interrupted.exit_code} | also


def python_beside(directory: Path, source: str) -> subprocess.CompletedProcess[str]:
    script = directory / "script.py"
    script.write_text(source)
    return subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
    )


def test_all_builds_tell_one_version() -> None:
    assert sparsync.__version__ == VERSION


def test_importing_sparsync_imports_nothing_else(tmp_path: Path) -> None:
    done = python_beside(tmp_path, "import sys, sparsync; print(*sys.modules)")
    assert done.returncode == 0, done.stderr
    assert not HEAVY & set(done.stdout.split())
    assert not {"worker", "wire"} & set(done.stdout.split())


@pytest.mark.parametrize("hidden", ["worker.py", "worker/__init__.py"])
def test_a_users_own_worker_is_named_as_the_file_in_the_way(hidden: str, tmp_path: Path) -> None:
    (tmp_path / hidden).parent.mkdir(exist_ok=True)
    (tmp_path / hidden).write_text("raise SystemExit('the wrong worker ran')")
    done = python_beside(tmp_path, "import sparsync; sparsync.join")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(
        f"wire.errors.ShadowedModule: {tmp_path / hidden} hides Sparsync's own package 'worker'"
    )
    assert "rename it" in last


def test_a_users_own_wire_is_an_import_error_with_the_same_advice(tmp_path: Path) -> None:
    (tmp_path / "wire.py").write_text("raise SystemExit('the wrong wire ran')")
    done = python_beside(tmp_path, "import sparsync; sparsync.join")
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"ImportError: {tmp_path / 'wire.py'} hides Sparsync's own package 'wire'")


def test_an_imported_namesake_is_found_too(tmp_path: Path) -> None:
    done = python_beside(
        tmp_path,
        "import sys, types, sparsync\n"
        "sys.modules['worker'] = types.ModuleType('worker')\n"
        "try: sparsync.join\n"
        "except Exception as error: print(type(error).__name__)\n",
    )
    assert done.stdout == "ShadowedModule\n", done.stderr


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'jion'; it has __version__, config, join"):
        _ = sparsync.jion  # type: ignore[attr-defined]
