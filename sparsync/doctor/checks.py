"""All checks, in the order in which they are shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from sparsync.doctor import certificates, clocks, device, disk, limits, network, software
from sparsync.doctor.finding import Finding, failure
from sparsync.doctor.node import Node

Check = Callable[[Node], Finding]

CHECKS: tuple[Check, ...] = (
    *(software.versions, software.shadows),
    *(network.ports, network.own_name, network.coordinators_name, network.coordinator),
    *(certificates.key, certificates.chain, certificates.expiry, certificates.identity, certificates.revoked),
    *(clocks.wall_clock, clocks.synchronised, clocks.monotonic),
    *(disk.space, disk.fsync, disk.kernel_cache),
    device.cuda,
    *(limits.open_files, limits.locked_memory, limits.memory, limits.processes, limits.shared_memory),
)


def examine(node: Node) -> Iterator[Finding]:
    """One finding of each check; a check that itself breaks is one too, and the others go on."""
    for check in CHECKS:
        try:
            yield check(node)
        except Exception as error:
            yield failure(
                check.__name__.replace("_", " "),
                f"the check itself failed: {type(error).__name__}: {error}",
                "report this, with the command line",
            )
