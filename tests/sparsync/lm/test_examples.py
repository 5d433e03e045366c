"""The two examples are one program, and the plain one runs."""

import difflib
import re
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[3] / "examples"
PLAIN = (EXAMPLES / "gpt_plain.py").read_text().splitlines()
SPARSYNC = (EXAMPLES / "gpt_sparsync.py").read_text().splitlines()


def differences() -> list[str]:
    return [
        line
        for line in difflib.unified_diff(PLAIN, SPARSYNC, n=0, lineterm="")
        if line[0] in "+-" and not line.startswith(("+++", "---"))
    ]


def test_five_lines_change() -> None:
    """A line that is added, removed, or replaced by another counts once."""
    matcher = difflib.SequenceMatcher(None, PLAIN, SPARSYNC, autojunk=False)
    changed = sum(max(i2 - i1, j2 - j1) for tag, i1, i2, j1, j2 in matcher.get_opcodes() if tag != "equal")
    assert 0 < changed <= 5
    assert sum(line.startswith("+") for line in differences()) <= 5
    assert sum(line.startswith("-") for line in differences()) <= 5


def test_the_page_shows_these_changes() -> None:
    page = (EXAMPLES / "README.md").read_text()
    block = re.search(r"```diff\n(.*?)```", page, re.DOTALL)
    assert block is not None
    assert sorted(block[1].splitlines()) == sorted(differences())


def test_the_plain_one_runs(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("for i in range(10):\n    print(i)\n" * 1000)
    result = subprocess.run(
        [sys.executable, EXAMPLES / "gpt_plain.py", "--steps", "3", "--data", tmp_path / "text.txt"],
        cwd=EXAMPLES.parent,
        env={"XDG_CACHE_HOME": str(tmp_path), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(EXAMPLES.parent)},
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )
    assert result.returncode == 0, result.stderr
    *losses, summary = result.stdout.splitlines()
    assert len(losses) == 3
    assert re.fullmatch(r"validation loss \d\.\d{3} on data [0-9a-f]{12}", summary)
    assert (tmp_path / "sparsync" / "data").is_dir()
