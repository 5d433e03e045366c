"""CUDA and its driver: whether torch can compute there."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

from sparsync.doctor.finding import Finding, failure, ok, warning
from sparsync.doctor.node import Node

DRIVER = Path("/proc/driver/nvidia/version")
VERSION = re.compile(r"Kernel Module\D*([\d.]+)")


def cuda(node: Node) -> Finding:
    """Whether the driver, torch's build and a computation on each device fit together."""
    what, driver = "CUDA", driver_version()
    import torch

    built = torch.version.cuda
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        there = torch.cuda.is_available()
    said = next((str(w.message).splitlines()[0] for w in told), "")
    if there:
        return _tried(driver, built)
    if driver is None:
        return ok(what, "no NVIDIA driver: workers compute on the CPU")
    if built is None:
        return warning(
            what,
            f"driver {driver} is there, but torch {torch.__version__} is built for the CPU",
            "install a torch build for CUDA, or leave it so to compute on the CPU",
        )
    return failure(
        what,
        f"driver {driver} is there, but torch (CUDA {built}) finds no device" + (f": {said}" if said else ""),
        "check nvidia-smi, CUDA_VISIBLE_DEVICES, the rights on /dev/nvidia*, and that the driver is new enough",
    )


def _tried(driver: str | None, built: str | None) -> Finding:
    import torch

    names = []
    for index in range(torch.cuda.device_count()):
        try:
            ones = torch.ones(8, device=f"cuda:{index}")
            assert float(ones.sum()) == 8.0
        except (RuntimeError, AssertionError) as error:
            return failure(
                "CUDA",
                f"cuda:{index} cannot compute: {str(error).splitlines()[0]}",
                "check nvidia-smi for errors and for who uses it, and that torch is built for this device",
            )
        names.append(torch.cuda.get_device_name(index))
    counted = ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))
    return ok("CUDA", f"{counted}; driver {driver or 'unknown'}, torch built for CUDA {built}")


def driver_version() -> str | None:
    """Of the kernel module; None where there is none."""
    try:
        found = VERSION.search(DRIVER.read_text(encoding="ascii", errors="replace"))
    except OSError:
        return None
    return found[1] if found else "of unknown version"
