"""Who one is on the wire: a role and a name, from the certificate's URI SAN `sparsync://ROLE/NAME` and nowhere else.

A server reads it of every caller (`peer_of`). A client checks the role of whom it dials, not the host: the DNS
SAN `ROLE.sparsync` (`server_name`), which only that role's certificates carry. In plain text, on loopback or where
the network itself is trusted (`insecure`), everybody is `Peer.anyone()`.
"""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from wire.errors import ConfigError, PermissionRefused, Unidentified
from wire.rpc.address import is_loopback
from wire.rpc.pem_files import PemFiles

if TYPE_CHECKING:
    from wire.config import SecurityConfig


class Role(StrEnum):
    """What somebody is in a run, as certificates tell it."""

    COORDINATOR = "coordinator"
    PS = "ps"
    WORKER = "worker"
    OPERATOR = "operator"
    VIEWER = "viewer"


SERVING = frozenset({Role.COORDINATOR, Role.PS, Role.WORKER})
"""Roles that listen: a worker for metrics alone."""

NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_IDENTITY = re.compile(rf"sparsync://(?P<role>[a-z]+)/(?P<name>{NAME.pattern})")


def identity_uri(role: Role, name: str) -> str:
    """The URI SAN of a certificate. Raises: ConfigError for what is no name."""
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} is no name for a certificate; expected up to 63 letters, digits, dots, dashes and underscores"
        )
    return f"sparsync://{role}/{name}"


def server_name(role: Role) -> str:
    """The DNS SAN of that role's certificates: what a client asks of whom it dials."""
    return f"{role}.sparsync"


@dataclass(frozen=True)
class Peer:
    """The other side of a connection, as its certificate tells it.

    Attributes:
        role: None is anyone in plain text, to whom everything is open.
        serial: of the certificate, as lower-case hexadecimal digits.
        ends: when the certificate does.
    """

    role: Role | None
    name: str
    serial: str
    ends: datetime | None = field(default=None, compare=False)

    @classmethod
    def anyone(cls) -> Self:
        return cls(None, "anyone", "")

    def covers(self, name: str) -> bool:
        """Whether it may be `name` in a run: its own name, or that and more after a dot."""
        return self.role is None or name == self.name or name.startswith(f"{self.name}.")

    def __str__(self) -> str:
        return self.name if self.role is None else f"{self.role}/{self.name}"


def peer_of(context: Any) -> Peer:
    """Who makes a call, from its servicer context.

    Raises: Unidentified where the certificate names nobody.
    """
    found = context.auth_context()
    if b"insecure" in found.get("transport_security_type", ()):
        return Peer.anyone()
    certificates = found.get("x509_pem_cert", ())
    if not certificates:
        raise Unidentified("the other side of this connection has shown no certificate")
    return peer_in(bytes(certificates[0]))


@lru_cache(maxsize=4096)
def peer_in(certificate: bytes) -> Peer:
    """Whom a certificate in PEM form names.

    Raises: Unidentified where it names nobody, or several.
    """
    from cryptography import x509

    found = x509.load_pem_x509_certificate(certificate)
    serial = f"{found.serial_number:x}"
    try:
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (x509.ExtensionNotFound, ValueError):
        uris = []
    ours = [uri for uri in uris if uri.startswith("sparsync:")]
    match = _IDENTITY.fullmatch(ours[0]) if len(ours) == 1 else None
    if match is None or match["role"] not in frozenset(Role):
        roles = "|".join(Role)
        raise Unidentified(
            f"certificate {serial} names {' and '.join(ours) or 'nobody'}; expected exactly one URI "
            f"sparsync://{roles}/NAME among its alternative names: issue one with `sparsync certs issue`"
        )
    return Peer(Role(match["role"]), match["name"], serial, found.not_valid_after_utc)


@dataclass(frozen=True)
class Security:
    """How connections are protected; the same for listening and for dialling.

    Attributes:
        tls_crl: the authority's list of the revoked, looked at each second by who listens (wire/rpc/revocation.py).
    """

    insecure: bool = False
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_crl: Path | None = None

    @classmethod
    def configured(cls, at: SecurityConfig) -> Self:
        """As the `security` section of a configuration says."""
        named = (at.tls_ca, at.tls_cert, at.tls_key, at.tls_crl)
        return cls(at.insecure, *(Path(file).expanduser().absolute() if file else None for file in named))

    @property
    def tls(self) -> bool:
        """Whether connections are encrypted and both sides authenticated.

        Raises:
            ConfigError: some of the three files are given, but not all.
        """
        files = {"--tls-ca": self.tls_ca, "--tls-cert": self.tls_cert, "--tls-key": self.tls_key}
        missing = [flag for flag, path in files.items() if path is None]
        if missing and len(missing) < len(files):
            raise ConfigError(
                f"TLS needs three files, but {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} "
                "missing; give --tls-ca, --tls-cert and --tls-key together, or none of them"
            )
        if missing and self.tls_crl is not None:
            raise ConfigError(
                "--tls-crl without --tls-ca, --tls-cert and --tls-key: nobody shows certificates"
            )
        return not missing

    @property
    def files(self) -> PemFiles | None:
        """Where the PEM files stand; None in plain text. Raises: ConfigError as `tls`."""
        if not self.tls:
            return None
        assert self.tls_ca and self.tls_cert and self.tls_key
        return PemFiles(self.tls_ca, self.tls_cert, self.tls_key)

    def check_listen(self, host: str) -> None:
        """Refuses to serve plain text to other machines.

        Raises:
            PermissionRefused: `host` is not loopback, and neither TLS nor `insecure` is given.
        """
        if self.tls or self.insecure or is_loopback(host):
            return
        raise PermissionRefused(
            f"listening on {host} without TLS would let anyone who reaches it take part in the run; "
            "give --tls-ca, --tls-cert and --tls-key, listen on 127.0.0.1, "
            "or say --insecure if the network itself is trusted"
        )

    def own(self) -> Peer:
        """Who we are to others.

        Raises:
            ConfigError, NoInput, PermissionRefused: about the PEM files, by name.
            Unidentified: the certificate names nobody.
        """
        files = self.files
        return Peer.anyone() if files is None else peer_in(files.read().cert)

    def name_as(self, role: Role, name: str | None, *, otherwise: str, place: int | None = None) -> str:
        """Our name in the run: as given, else our certificate's, else `otherwise` where there is none.

        `place`: number among those that share the certificate; it is put behind the certificate's name.

        Raises:
            PermissionRefused: our certificate is not for this role, or not for that name.
            ConfigError, NoInput: about the PEM files, by name.
        """
        own = self.own()
        if own.role is None:
            return name or otherwise
        if own.role is not role:
            raise PermissionRefused(
                f"--tls-cert {self.tls_cert} is a certificate for {own}, and this is a {role}; "
                f"issue one with `sparsync certs issue --role {role}`"
            )
        if not own.covers(name or own.name):
            raise PermissionRefused(
                f"--tls-cert {self.tls_cert} is a certificate for {own}, which may join as {own.name} or {own.name}.X, "
                f"not as {name}; change --name, or issue one with `sparsync certs issue --role {role} --name {name}`"
            )
        return name or (own.name if place is None else f"{own.name}.{place}")

    def ssl_context(self) -> ssl.SSLContext:
        """The same client side for Python's own TLS, which gives better reasons when a handshake fails.

        Raises:
            ConfigError, NoInput, PermissionRefused: about the PEM files, by name.
        """
        files = self.files
        assert files is not None
        return files.client_context()
