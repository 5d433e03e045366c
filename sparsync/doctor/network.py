"""Ports, names, and whether the coordinator answers."""

from __future__ import annotations

import asyncio
import socket

from sparsync.doctor.finding import Finding, failure, ok, refused, warning
from sparsync.doctor.node import Node
from sparsync.quantities import show_seconds
from wire.errors import ConfigError, PermissionRefused, PortTaken, SparsyncError, Unreachable
from wire.rpc.address import is_loopback, parse_address
from wire.rpc.channel import diagnose
from wire.rpc.identity import Role
from wire.rpc.server import check_bindable

CROWDED = {
    29500: "torch's rendezvous",
    29510: "torch's rendezvous",
    6379: "Redis and Ray",
    8265: "Ray's dashboard",
    8786: "Dask's scheduler",
    8787: "Dask's dashboard",
    9090: "Prometheus",
    9092: "Kafka",
    9100: "Prometheus' node exporter",
    2379: "etcd",
}
"""Ports that others are used to find at home."""


def ports(node: Node) -> Finding:
    """Whether all addresses to listen on can be had, and may be."""
    what = "ports"
    if not node.listen:
        return ok(what, "none asked about; --listen HOST:PORT tries one")
    for address in node.listen:
        try:
            host, port = parse_address(address)
            node.security.check_listen(host)
            check_bindable(host, port)
        except (ConfigError, PermissionRefused, PortTaken) as error:
            return refused(what, error)
    crowded = [port for _, port in map(parse_address, node.listen) if port in CROWDED]
    if crowded:
        return warning(
            what,
            f"port {crowded[0]} is free, but it is where {CROWDED[crowded[0]]} listens by custom",
            "choose another one, such as 7700",
        )
    return ok(what, f"{', '.join(node.listen)} can be listened on")


def own_name(node: Node) -> Finding:
    """Whether this machine's name, or the one that is advertised, leads others here."""
    what = "own name"
    try:
        host = parse_address(node.advertise)[0] if node.advertise else socket.gethostname()
    except ConfigError as error:
        return refused(what, error)
    addresses = _addresses(host)
    if not addresses:
        text = f"{host} is not known here"
        remedy = "put it into /etc/hosts or DNS, or advertise an IP address (--advertise)"
        return failure(what, text, remedy) if node.advertise else warning(what, text, remedy)
    found = f"{host} is {', '.join(addresses)}"
    if node.advertise and all(is_loopback(address) for address in addresses):
        return warning(
            what,
            f"{found}: loopback, as seen from here",
            "others must find this machine by that name: check it there, or take 127.0.1.1 out of /etc/hosts",
        )
    back = _name_of(addresses[0])
    return ok(
        what, f"{found}, and back {back}" if back else f"{found}; no name leads back, and none is needed"
    )


def coordinators_name(node: Node) -> Finding:
    """Whether the coordinator's host is known, and by which name its address is."""
    what = "coordinator's name"
    if node.coordinator is None:
        return ok(what, "none given; --coordinator HOST:PORT tries one")
    try:
        host = parse_address(node.coordinator)[0]
    except ConfigError as error:
        return refused(what, error)
    addresses = _addresses(host)
    if not addresses:
        return failure(
            what, f"{host} is not known", "check the spelling, /etc/hosts and DNS, or give an IP address"
        )
    back = _name_of(addresses[0])
    return ok(what, f"{host} is {', '.join(addresses)}" + (f", and back {back}" if back else ""))


def coordinator(node: Node) -> Finding:
    """Whether the coordinator answers, and if not, how far one comes."""
    what, asked = "coordinator", node.asked
    if asked is None or node.coordinator is None:
        return ok(what, "none given")
    if asked.status is not None:
        run, state = asked.status.get("run"), asked.status.get("state")
        return ok(what, f"{node.coordinator} answers in {show_seconds(asked.took_s)}: run {run}, {state}")
    if isinstance(asked.error, Unreachable):
        try:
            finding = asyncio.run(diagnose(node.coordinator, node.security, role=Role.COORDINATOR))
        except SparsyncError as error:
            return refused(what, error)
        return failure(what, f"{node.coordinator}: {finding.stage}: {finding.found}", finding.remedy)
    if isinstance(asked.error, PermissionRefused) and node.security.tls:
        return ok(what, f"{node.coordinator} answers, and shows its status to others than a {own_role(node)}")
    assert asked.error is not None
    return refused(what, asked.error)


def own_role(node: Node) -> str:
    """Of our certificate, as far as that can be read."""
    try:
        return str(node.security.own().role)
    except SparsyncError:
        return "certificate like this"


def _addresses(host: str) -> list[str]:
    try:
        infos = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError):
        return []
    return list(dict.fromkeys(str(info[4][0]) for info in infos))


def _name_of(address: str) -> str | None:
    """The name that leads back; None where there is none."""
    try:
        return socket.getnameinfo((address, 0), socket.NI_NAMEREQD)[0]
    except OSError:
        return None
