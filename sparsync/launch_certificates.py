"""Certificates for a cluster on this machine: one for each process, and one for whoever steers it.

With `security.authority = DIR` the launcher issues them from that authority (`sparsync certs init DIR`) into RUN/tls,
anew at each start. Without it the cluster speaks plain text on loopback. One certificate names one role, so the files
of a single one (`security.tls_cert`) cannot serve a whole cluster.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from wire.errors import ConfigError
from wire.rpc.identity import Role, Security

if TYPE_CHECKING:
    from sparsync.authority import Authority
    from sparsync.run_directory import RunDirectory
    from wire.config import SecurityConfig

OPERATOR = "launcher"
"""The name of the operator's certificate, which also the commands that are given the run directory use."""
DAYS = 365.0
"""Longer than a run: they are issued anew at each start."""


def check_authority(at: SecurityConfig) -> None:
    """Raises ConfigError, NoInput, PermissionRefused where no certificates can be issued as the configuration asks."""
    if at.tls_ca or at.tls_cert or at.tls_key:
        raise ConfigError(
            "security.tls_cert: a certificate names one role, and `sparsync train` starts several; give "
            "security.authority = DIR of `sparsync certs init DIR`, and each process gets one of its own"
        )
    if at.authority is not None:
        _authority(at.authority)
    elif at.tls_crl is not None:
        raise ConfigError(
            "security.tls_crl without security.authority: nobody shows certificates; give both, or none of them"
        )


def issue_certificates(at: SecurityConfig, run: RunDirectory, roles: Mapping[str, str]) -> None:
    """Certificates for these processes by name, and the operator's. Raises: as `check_authority`."""
    from datetime import UTC, datetime

    if at.authority is None:
        return
    authority, now = _authority(at.authority), datetime.now(UTC)
    for name, role in {**roles, OPERATOR: Role.OPERATOR}.items():
        authority.issue(Role(role), name, now=now, days=DAYS, out=run.tls / name, again=True)


def security_of(at: SecurityConfig, run: RunDirectory, process: str) -> Security:
    """How one process connects."""
    if at.authority is None:
        return Security.configured(at)
    folder = run.tls / process
    return Security(False, folder / "ca.pem", folder / "cert.pem", folder / "key.pem", crl_of(at))


def operator_of(run: RunDirectory) -> Security | None:
    """How the launcher of a run steers it; None where that run has no certificates of its own."""
    folder = run.tls / OPERATOR
    if not folder.is_dir():
        return None
    return Security(False, folder / "ca.pem", folder / "cert.pem", folder / "key.pem")


def crl_of(at: SecurityConfig) -> Path | None:
    """The list of the revoked: as configured, else the authority's own."""
    assert at.authority is not None
    found = Path(at.tls_crl) if at.tls_crl else Path(at.authority) / "crl.pem"
    return found.expanduser().absolute()


def _authority(directory: str) -> Authority:
    from sparsync.authority import Authority

    return Authority(Path(directory).expanduser().absolute())
