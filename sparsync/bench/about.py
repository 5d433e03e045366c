"""What a result was measured on: machine, versions, commit."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from sparsync import __version__
from wire.clock import utc_timestamp

PACKAGES = ("torch", "numpy", "numba", "grpcio", "protobuf", "zstandard")
ROOT = Path(__file__).parents[2]


def about(*, device: str = "cpu") -> dict[str, object]:
    """The head of a result. `device`: what was computed on, as its maker names it."""
    return {
        "at": utc_timestamp(),
        "machine": {
            "cpu": cpu_model(),
            "cores": len(os.sched_getaffinity(0)),
            "architecture": platform.machine(),
            "system": f"{platform.system()} {platform.release()}",
            "device": device,
        },
        "versions": {
            "sparsync": __version__,
            "python": platform.python_version(),
            **{name: installed(name) for name in PACKAGES},
        },
        "commit": commit(ROOT),
    }


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """As the kernel names the first core; the architecture where it names none."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return platform.machine()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )


def installed(package: str) -> str | None:
    """The version of a package, None where it is not there."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def commit(root: Path) -> str | None:
    """Of the checkout that this package lies in, `-dirty` where files differ from it; None where it is no checkout."""
    try:
        asked = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--exclude=*"],
            cwd=root,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return None
    return asked.stdout.strip() or None if (root / ".git").exists() else None
