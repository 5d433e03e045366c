"""The import hook of the tests: which of our modules asks for a pickling one, and what is unpickled while we run.

Installed in processes of their own (`sitecustomize` on their path imports this file), it writes each offence as a line
into the file that SPARSYNC_TEST_PICKLES names, and beside it which processes had it. It hears imports, and
`pickle.find_class`, which the interpreter itself tells of everything that is unpickled. Numba's cache of compiled
kernels is pickled by Numba, on this machine for this machine; torch starts its data loaders by pickle. Both are
theirs, and neither reads what comes over the network.
"""

from __future__ import annotations

import builtins
import os
import sys
from pathlib import Path
from types import FrameType
from typing import Any

OURS = ("sparsync", "coordinator", "ps", "worker", "wire")
PICKLING = frozenset({"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve"})
THEIRS = ("numba.", "torch.utils.data.", "multiprocessing.")


def is_ours(module: str) -> bool:
    return module.partition(".")[0] in OURS


def importing(told: list[str]) -> Any:
    """`__import__` that tells which of our modules imports a pickling one."""
    original = builtins.__import__

    def found(name: str, scope: Any = None, *rest: Any, **more: Any) -> Any:
        importer = (scope or {}).get("__name__", "")
        if name.partition(".")[0] in PICKLING and is_ours(importer):
            told.append(f"{importer} imports {name}")
        return original(name, scope, *rest, **more)

    return found


def unpickled_for(frame: FrameType | None) -> str | None:
    """The module of ours that something is unpickled for; None: it is for nobody of ours, or for theirs."""
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if f"{module}.".startswith(THEIRS):
            return None
        if is_ours(module):
            return module
        frame = frame.f_back
    return None


def install(tell: Any) -> None:
    """From now on each offence is handed to `tell`."""

    class Telling(list[str]):
        def append(self, offence: str) -> None:
            tell(offence)

    def heard(event: str, arguments: Any) -> None:
        if event == "pickle.find_class":
            module = unpickled_for(sys._getframe(1))
            if module is not None:
                tell(f"{module} has {'.'.join(map(str, arguments))} unpickled")

    builtins.__import__ = importing(Telling())
    sys.addaudithook(heard)


def install_from_environment() -> None:
    path = os.environ.get("SPARSYNC_TEST_PICKLES")
    if not path:
        return

    def tell(offence: str) -> None:
        with open(path, "a") as file:
            file.write(offence + "\n")

    install(tell)
    with open(f"{path}.processes", "a") as file:
        file.write(Path("/proc/self/cmdline").read_text().replace("\0", " ") + "\n")
