"""What a launcher's environment stands in for on the command line of a role (`wire.launchers`), told at the start."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wire.launchers import Place
    from wire.rpc.identity import Role, Security

log = logging.getLogger(__name__)
COORDINATOR_LISTEN = "127.0.0.1:7700"
"""Its port is `wire.launchers.PORT`."""


def find_place() -> Place:
    """This process's. Raises: ConfigError."""
    from wire.config import environment
    from wire.launchers import place_in

    return place_in(environment())


def coordinator_of(given: str | None, place: Place) -> str:
    """The address to dial: as given (or in SPARSYNC_COORDINATOR), else the launcher's, else on this machine."""
    if given is not None:
        return given
    if place.master is None:
        return COORDINATOR_LISTEN
    return tell("coordinator", *place.master)


def listen_of(given: str | None) -> str:
    """Where a coordinator listens: as given, else on loopback, at MASTER_PORT (workers would dial that) or our own."""
    from wire.config import environment
    from wire.launchers import master_port

    if given is not None:
        return given
    port = master_port(environment())
    return COORDINATOR_LISTEN if port is None else tell("listen", f"127.0.0.1:{port.value}", port.origin)


def name_of(given: str | None, role: Role, place: Place, security: Security, *, otherwise: str) -> str:
    """The name in the run: as given, else the certificate's, else by the launcher's rank, else `otherwise`.

    Raises: as `Security.name_as`.
    """
    number, by_rank = place.number, place.named(role)
    name = security.name_as(
        role, given, otherwise=by_rank or otherwise, place=number.value if number is not None else None
    )
    if given is None and security.tls and number is not None:
        tell("name", name, f"the certificate, {number.origin}")
    elif given is None and place.rank is not None and not security.tls:
        tell("name", name, place.rank.origin)
    return name


def tell(key: str, value: str, origin: str) -> str:
    """Says where a value is from that nobody gave on the command line, in the log of the role."""
    log.info("%s = %s  (%s)", key, value, origin)
    return value
