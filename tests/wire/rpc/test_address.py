"""Addresses read back as they are written."""

from __future__ import annotations

import pytest

from wire.errors import ConfigError
from wire.rpc.address import format_address, is_loopback, parse_address


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("node-1.example.org:7070", ("node-1.example.org", 7070)),
        ("[::1]:65535", ("::1", 65535)),
        ("[fe80::1%eth0]:1", ("fe80::1%eth0", 1)),
    ],
)
def test_reads_addresses_back(text: str, expected: tuple[str, int]) -> None:
    assert parse_address(text) == expected
    assert format_address(*expected) == text


@pytest.mark.parametrize(
    "text",
    ["", "host", ":70", "host:", "host:port", "::1:70", "host:65536", "a b:1", "http://host:1", "host:-1"],
)
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match=r"10\.0\.0\.5:7070"):
        parse_address(text)


def test_loopback() -> None:
    assert all(map(is_loopback, ["127.0.0.1", "127.8.9.1", "::1", "localhost"]))
    assert not any(map(is_loopback, ["0.0.0.0", "::", "10.0.0.1", "localhost.example.org"]))
