"""The three PEM files of TLS: read and checked as a whole, by name, and looked at again when they change.

A key that others can read is no secret and is refused. Files are replaced one after the other, so between
two of them certificate and key do not fit together: who has good ones keeps them until the new ones are whole.
"""

from __future__ import annotations

import os
import ssl
import stat
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from wire.errors import ConfigError, NoInput, PermissionRefused

if TYPE_CHECKING:
    from cryptography import x509

ALPN = ["h2"]
ROOT = 0


class Pems(NamedTuple):
    """What stands in the files."""

    ca: bytes
    cert: bytes
    key: bytes

    def serial(self) -> str:
        """Of our certificate, as lower-case hexadecimal digits."""
        return _serial(self.cert)


class PemFiles(NamedTuple):
    """Where an authority's certificate, a certificate that it signed, and the key of that stand."""

    ca: Path
    cert: Path
    key: Path

    def read(self) -> Pems:
        """What stands in them, once certificate and key fit together.

        Raises:
            NoInput: one is not there.
            PermissionRefused: one cannot be read, or others can read the key.
            ConfigError: one does not hold what it should.
        """
        pems = Pems(_read("--tls-ca", self.ca), _read("--tls-cert", self.cert), _read("--tls-key", self.key))
        self.client_context()  # gRPC would find a bad file only at the first handshake, and not name it
        return pems

    def client_context(self) -> ssl.SSLContext:
        """The same client side for Python's own TLS, which gives better reasons when a handshake fails.

        Raises: as `read`.
        """
        refuse_open_key(self.key)
        try:
            context = ssl.create_default_context(cafile=str(self.ca))
        except ssl.SSLError as error:
            raise ConfigError(f"--tls-ca {self.ca} holds no CA certificate in PEM form: {error}") from error
        try:
            context.load_cert_chain(self.cert, self.key, password=_no_passphrase)
        except ssl.SSLError as error:
            raise ConfigError(
                f"--tls-cert {self.cert} and --tls-key {self.key} are no certificate "
                f"with its own private key in PEM form: {error}"
            ) from error
        context.set_alpn_protocols(ALPN)
        return context

    def dates(self) -> tuple[datetime, datetime]:
        """From when to when our certificate is good. Raises: OSError, ValueError."""
        from cryptography import x509

        found = x509.load_pem_x509_certificate(self.cert.read_bytes())
        return found.not_valid_before_utc, found.not_valid_after_utc

    def fault(self, now: datetime) -> str | None:
        """Why others that trust our authority would refuse our certificate, as far as can be seen from here."""
        from cryptography import x509

        chain = x509.load_pem_x509_certificates(self.cert.read_bytes())
        begins, ends = self.dates()
        if not begins <= now <= ends:
            written = "{:%Y-%m-%d %H:%M}".format
            return f"is good from {written(begins)} to {written(ends)} UTC, and here it is {written(now)}"
        authorities = x509.load_pem_x509_certificates(self.ca.read_bytes())
        if signer(chain, authorities) is None:
            return f"is not signed by {self.ca}"
        return None

    def stamp(self) -> tuple[Stamp, ...]:
        """What differs once one of them is replaced or written."""
        return tuple(stamp_of(path) for path in self)


@lru_cache(maxsize=64)
def _serial(certificate: bytes) -> str:
    from cryptography import x509

    return f"{x509.load_pem_x509_certificate(certificate).serial_number:x}"


def refuse_open_key(path: Path, *, what: str = "--tls-key") -> None:
    """Raises PermissionRefused where others than its owner can read this file.

    A key of root's may be readable for a group: so an administrator hands it to a service.
    """
    try:
        found = path.stat()
    except FileNotFoundError as error:
        raise NoInput(f"{what} {path}: no such file") from error
    except OSError as error:
        raise _unreadable(what, path, error) from error
    mode, owner = stat.S_IMODE(found.st_mode), found.st_uid
    if owner not in (ROOT, os.geteuid()):
        raise PermissionRefused(
            f"{what} {path} belongs to user {owner}, who can read it; it has to be root's or that of the "
            f"user of this process ({os.geteuid()}): chown it"
        )
    allowed = 0o640 if owner == ROOT else 0o600
    if mode & 0o077 & ~allowed:
        raise PermissionRefused(
            f"{what} {path} can be read or written by others (mode {mode:04o}); expected {allowed:04o} or less: "
            f"chmod {allowed & ~0o040:o} {path}, and take it for known if others use this machine"
        )


def _no_passphrase() -> str:
    """Otherwise Python would ask for it on the terminal."""
    raise ConfigError(
        "--tls-key: the key is encrypted, and a service has nobody to ask for the passphrase; "
        "give it a key without one, which only its user can read"
    )


def signer(chain: list[x509.Certificate], authorities: list[x509.Certificate]) -> x509.Certificate | None:
    """Which authority has signed the first of a chain, itself or through the others; None where none has."""
    certificate, *between = chain
    while True:
        for authority in authorities:
            if _signs(authority, certificate):
                return authority
        issuers = [other for other in between if _signs(other, certificate)]
        if not issuers:
            return None
        certificate = issuers[0]
        between.remove(certificate)


def _signs(authority: x509.Certificate, certificate: x509.Certificate) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _read(flag: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise NoInput(f"{flag} {path}: no such file; expected a PEM file") from error
    except OSError as error:
        raise _unreadable(flag, path, error) from error


def _unreadable(flag: str, path: Path, error: OSError) -> PermissionRefused:
    return PermissionRefused(f"{flag} {path} cannot be read ({error.strerror}); check its owner and mode")


Stamp = tuple[int, int, int]


def stamp_of(path: Path) -> Stamp:
    """What differs once a file is replaced or written; zeros where there is none."""
    try:
        found = path.stat()
    except OSError:
        return (0, 0, 0)
    return found.st_mtime_ns, found.st_size, found.st_ino
