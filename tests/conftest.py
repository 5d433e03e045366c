"""Certificates: an authority of the tests' own, and another that nobody here trusts."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sparsync.authority import Authority
from wire.rpc.identity import Role, Security

Member = Callable[..., Security]
"""`member(role, name)`: that role's files, signed by the tests' authority; `name` is the role's without one."""


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.create(tmp_path_factory.mktemp("authority"), now=datetime.now(UTC))


@pytest.fixture(scope="session")
def foreign_authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.create(tmp_path_factory.mktemp("foreign"), now=datetime.now(UTC))


@pytest.fixture(scope="session")
def member(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Member:
    made: dict[tuple[Role, str], Security] = {}

    def files(role: Role, name: str = "") -> Security:
        key = (role, name or str(role))
        if key not in made:
            made[key] = security(authority, *key, out=tmp_path_factory.mktemp(str(role)))
        return made[key]

    return files


def security(authority: Authority, role: Role, name: str, *, out: Path) -> Security:
    """Files of one role and name."""
    _, files = authority.issue(role, name, now=datetime.now(UTC), out=out, again=True)
    return Security(False, *files)
