"""Addresses as people write them: `host:port`, an IPv6 address in brackets."""

from __future__ import annotations

import ipaddress
import re

from wire.errors import ConfigError

_BRACKETED = re.compile(r"\[(?P<host>[0-9A-Fa-f:.]+(?:%\w+)?)\]:(?P<port>\d{1,5})")
_PLAIN = re.compile(r"(?P<host>[A-Za-z0-9._-]+):(?P<port>\d{1,5})")
MAX_PORT = 65535


def parse_address(text: str) -> tuple[str, int]:
    """(host, port) of `host:port` or `[IPv6]:port`; brackets are taken off.

    Raises:
        ConfigError: for anything else, with an example.
    """
    match = _BRACKETED.fullmatch(text) or _PLAIN.fullmatch(text)
    if match is None or int(match["port"]) > MAX_PORT:
        raise ConfigError(
            f"{text!r} is no address; expected HOST:PORT with a port from 0 to {MAX_PORT}, "
            "such as 10.0.0.5:7070, node1.example.org:7070 or [fd00::5]:7070 (IPv6 in brackets)"
        )
    return match["host"], int(match["port"])


def format_address(host: str, port: int) -> str:
    """The text that `parse_address` reads back."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether `host` can be reached from this machine alone, without asking a name server."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
