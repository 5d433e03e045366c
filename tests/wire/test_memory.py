"""What is freed is not faulted in again: seen in the kernel's count of page faults, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

FAULTS = """
import resource, sys
from wire.memory import keep_freed_memory

def faults(rounds):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        parts = [bytearray(1 << 20) for _ in range(32)]
        del parts
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults(3)
assert keep_freed_memory()
faults(3)
print(faults(10))
"""


def test_freed_memory_is_used_again() -> None:
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    pages = 10 * 32 * (1 << 20) // 4096
    assert int(done.stdout) < 0.05 * pages
