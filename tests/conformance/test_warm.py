"""No codec makes its first user wait for the compiler: what `warm` has run is all that any of them calls."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import importlib, pkgutil
import numba, numpy as np
from tests.conformance.combinations import ALL, REAL, fresh, noise, received, sent, some_deltas, some_pushes
from wire.codec import kernels

MODULES = [importlib.import_module(f"wire.codec.kernels.{m.name}") for m in pkgutil.iter_modules(kernels.__path__)
           if m.name != "__main__"]

def compiled():
    return {(m.__name__, name): len(f.signatures) for m in MODULES for name, f in vars(m).items()
            if isinstance(f, numba.core.registry.CPUDispatcher)}

kernels.warm()
warm = compiled()
assert sum(warm.values()) > 5, warm
for codec in some_pushes():
    state = fresh(codec)
    frame = sent(codec, noise(0), state)
    codec.add(frame, received(codec, frame), ALL, factor=0.5)
for codec in some_deltas():
    published = np.zeros(REAL.shape, np.float32)
    codec.apply(codec.publish(noise(0), published, ALL), published, ALL)
later = {name for name, count in compiled().items() if count > warm[name]}
assert not later, later
"""


def test_nothing_is_compiled_after_warming() -> None:
    """In a process of its own: here other tests have compiled already."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environ, check=False, timeout=110
    )
    assert done.returncode == 0, done.stderr
