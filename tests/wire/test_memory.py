"""What is freed is not faulted in again at once, goes back later, and is shared; each seen in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

FAULTS = """
import resource, sys
PARTS = int(sys.argv[1])
from wire.memory import keep_freed_memory

def faults(rounds):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        parts = [b"x" * (1 << 20) for _ in range(PARTS)]
        del parts
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults(1)
assert keep_freed_memory()
faults(2)
print(faults(10))
"""


def test_freed_memory_is_used_again() -> None:
    parts = 512  # MiB: most of it is free at the end of the heap, and glibc would give that back
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, str(parts)], capture_output=True, text=True, check=True
    )
    pages = 10 * parts * (1 << 20) // 4096
    assert int(done.stdout) < 0.05 * pages


ARENAS = """
import ctypes, sys, threading
from wire.memory import keep_freed_memory

assert keep_freed_memory()
all_at_once = threading.Barrier(8)

def allocate():
    all_at_once.wait()
    pieces = [bytes(100_000) for _ in range(100)]
    all_at_once.wait()

threads = [threading.Thread(target=allocate) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
told = libc.fopen(sys.argv[1].encode(), b"w")
libc.malloc_info(0, ctypes.c_void_p(told))
libc.fclose(ctypes.c_void_p(told))
"""


def test_threads_share_a_few_arenas(tmp_path: Path) -> None:
    told = tmp_path / "malloc.xml"
    subprocess.run([sys.executable, "-c", ARENAS, told], check=True)
    arenas = ElementTree.parse(told).findall("heap")
    assert 1 <= len(arenas) <= 2


GIVEN_BACK = """
import threading, time
import wire.memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

assert wire.memory.keep_freed_memory()
pieces = [b"x" * 100_000 for _ in range(1000)]
full = resident()
del pieces[::2]  # holes, which no allocator can give back at the end of its heap
holed = resident()
deadline = time.monotonic() + 20
while resident() > full - 40e6 and time.monotonic() < deadline:
    time.sleep(0.05)
print(full - holed, full - resident())
"""


def test_what_stays_free_is_given_back() -> None:
    script = GIVEN_BACK.replace("assert", "wire.memory.GIVEN_BACK_S = 0.2\nassert", 1)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    at_once, later = map(int, done.stdout.split())
    assert at_once < 5e6
    assert later > 40e6


HELD = """
from wire.memory import held, keep_freed_memory

assert keep_freed_memory()
before = held()
pieces = [bytes(100_000) for _ in range(1000)]
full = held()
del pieces[::2]  # between others, so that malloc keeps it
holed = held()
print(full.used - before.used, holed.used - full.used, holed.free - full.free)
"""


def test_what_is_used_and_what_is_free_are_told_apart() -> None:
    done = subprocess.run([sys.executable, "-c", HELD], capture_output=True, text=True, check=True)
    taken, given, free = map(int, done.stdout.split())
    assert abs(taken - 100e6) < 1e6
    assert abs(given + 50e6) < 1e6
    assert abs(free - 50e6) < 1e6
