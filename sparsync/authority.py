"""A run's certificate authority as a directory: what it has issued, and what it has revoked.

DIR/ca.pem, DIR/ca.key        its certificate; its key, for its owner alone
DIR/crl.pem, DIR/lock         its signed list of the revoked, whole from the beginning; held by who adds to it
DIR/issued/SERIAL.pem         every certificate that it ever signed: there is no index that could differ from them
DIR/ROLE-NAME/                ca.pem, cert.pem and key.pem, to be copied to where that role runs

Files appear whole or not at all; the key of a certificate is replaced before the certificate, since those who
read the pair keep what they have until both fit.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from sparsync.certificates import (
    AUTHORITY_DAYS,
    issue,
    load_signed,
    new_authority,
    revocation_list,
)
from wire.errors import ConfigError, NoInput, PermissionRefused, UsageError
from wire.rpc.identity import Peer, Role, identity_uri, peer_in
from wire.rpc.pem_files import PemFiles, refuse_open_key

CA, CERT, KEY, LIST = "ca.pem", "cert.pem", "key.pem", "crl.pem"
AUTHORITY_KEY = "ca.key"
LOCK = "lock"


@dataclass(frozen=True)
class Issued:
    """A certificate that the authority signed.

    Attributes:
        revoked: since when it holds no more.
    """

    peer: Peer
    begins: datetime
    ends: datetime
    revoked: datetime | None

    def good(self, now: datetime) -> bool:
        return self.revoked is None and now < self.ends


class Authority:
    """An authority whose directory is there, opened for signing; `Authority.create` makes one."""

    def __init__(self, directory: Path, *, passphrase: bytes | None = None) -> None:
        """Raises: NoInput, ConfigError, PermissionRefused about its files."""
        self.directory = directory
        key = directory / AUTHORITY_KEY
        certificate = read_authority(directory)
        if not key.exists():
            raise NoInput(
                f"{key}: no such file; certificates are issued and revoked where `certs init` left the key"
            )
        refuse_open_key(key, what="the authority's key")
        self._signed = load_signed(certificate, key.read_bytes(), passphrase)

    @classmethod
    def create(
        cls,
        directory: Path,
        *,
        now: datetime,
        days: float = AUTHORITY_DAYS,
        passphrase: bytes | None = None,
    ) -> Authority:
        """A new authority in a directory that holds none.

        Raises: UsageError where it holds one, PermissionRefused where it cannot be written.
        """
        if any(os.access(directory / name, os.F_OK) for name in (CA, AUTHORITY_KEY)):
            raise UsageError(
                f"{directory} holds an authority already, and what it signed would be good no more; "
                "choose another directory, or remove this one first"
            )
        signed = new_authority(f"authority {now:%Y-%m-%d} {secrets.token_hex(4)}", now=now, days=days)
        write_private(directory / AUTHORITY_KEY, signed.key_pem(passphrase))
        write_public(directory / LIST, _pem(revocation_list(signed, {}, number=1, now=now)))
        write_public(directory / CA, signed.pem)
        return cls(directory, passphrase=passphrase)

    @property
    def certificate(self) -> x509.Certificate:
        return self._signed.certificate

    def folder(self, peer: Peer) -> Path:
        """Where the files of a role and name are put."""
        return self.directory / f"{peer.role}-{peer.name}"

    def issue(
        self,
        role: Role,
        name: str,
        *,
        now: datetime,
        days: float | None = None,
        out: Path | None = None,
        again: bool = False,
    ) -> tuple[Issued, PemFiles]:
        """A certificate with a new key, and its three files in `out` or `folder(...)`.

        Raises:
            ConfigError: `name` is none.
            UsageError: it has a good one already, and `again` does not say that this is meant.
            PermissionRefused: its files cannot be written.
        """
        identity_uri(role, name)
        peer = Peer(role, name, "")
        if not again and any(
            i.peer.role == role and i.peer.name == name and i.good(now) for i in self.issued()
        ):
            raise UsageError(
                f"{peer} has a certificate that is good still; `sparsync certs renew {peer}` issues the next one, "
                f"`sparsync certs revoke {peer}` ends this one"
            )
        signed = issue(self._signed, peer, now=now, days=days)
        issued = _issued(signed.certificate, {})
        write_public(self.directory / "issued" / f"{issued.peer.serial}.pem", signed.pem)
        folder = out or self.folder(peer)
        files = PemFiles(folder / CA, folder / CERT, folder / KEY)
        write_public(files.ca, read_authority(self.directory))
        write_private(files.key, signed.key_pem())
        write_public(files.cert, signed.pem)
        return issued, files

    def issued(self) -> list[Issued]:
        """All that it ever signed, by role, name and date."""
        return issued_in(self.directory)

    def revoke(self, which: str, *, now: datetime) -> list[Issued]:
        """Ends all good certificates of a name, or the one of a serial number; those that it ended.

        Raises: NoInput where there is none.
        """
        with self._alone():
            meant = [i for i in find(self.issued(), which) if i.good(now)]
            if not meant:
                raise NoInput(
                    f"{which}: no good certificate of that name or serial number; look at `sparsync certs show`"
                )
            revoked = _revoked(self.directory) | {int(i.peer.serial, 16): now for i in meant}
            number = _number(read_list(self.directory)) + 1
            write_public(
                self.directory / LIST, _pem(revocation_list(self._signed, revoked, number=number, now=now))
            )
        return find(self.issued(), *(i.peer.serial for i in meant))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else adds to the list meanwhile: one of two would be lost."""
        with open(os.open(self.directory / LOCK, os.O_WRONLY | os.O_CREAT, 0o600), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def issued_in(directory: Path) -> list[Issued]:
    """All that the authority of a directory ever signed. Raises: NoInput, ConfigError."""
    read_authority(directory)
    revoked = _revoked(directory)
    paths = sorted((directory / "issued").glob("*.pem"))
    found = [_issued(_certificate(path), revoked) for path in paths]
    return sorted(found, key=lambda i: (str(i.peer.role), i.peer.name, i.begins))


def find(issued: list[Issued], *words: str) -> list[Issued]:
    """Those of a serial number, a `ROLE/NAME`, or a NAME that only one role has.

    Raises: UsageError where several roles have that name.
    """
    found = []
    for word in words:
        meant = [i for i in issued if word in (i.peer.serial, i.peer.name, str(i.peer))]
        roles = sorted({str(i.peer) for i in meant})
        if len(roles) > 1:
            raise UsageError(f"{word} is the name of {' and '.join(roles)}; say which")
        found += meant
    return found


def expiring(issued: list[Issued], *, now: datetime, days: float) -> list[Issued]:
    """The newest of each role and name, where it is not revoked and ends within so many days."""
    soon = now + timedelta(days=days)
    return [i for i in latest(issued) if i.revoked is None and i.ends <= soon]


def latest(issued: list[Issued]) -> list[Issued]:
    """The newest of each role and name."""
    return list({(i.peer.role, i.peer.name): i for i in issued}.values())


def read_certificate(path: Path) -> Issued:
    """Whom the certificate in a file names, and until when. Raises: NoInput, ConfigError, PermissionRefused."""
    return _issued(_certificate(path), {})


def read_authority(directory: Path) -> bytes:
    """The authority's certificate in PEM form. Raises: NoInput where the directory holds none."""
    try:
        return (directory / CA).read_bytes()
    except FileNotFoundError:
        raise NoInput(
            f"{directory} holds no authority ({CA} is missing); make one with `sparsync certs init {directory}`"
        ) from None


def read_list(directory: Path) -> x509.CertificateRevocationList:
    """The list of the revoked. Raises: NoInput, ConfigError."""
    path = directory / LIST
    try:
        return x509.load_pem_x509_crl(path.read_bytes())
    except FileNotFoundError:
        raise NoInput(f"{path}: no such file; without it nobody knows what was revoked: restore it") from None
    except ValueError as error:
        raise ConfigError(f"{path} holds no revocation list in PEM form ({error}); restore it") from None


def write_public(path: Path, content: bytes) -> None:
    """Puts a file there whole, readable for all."""
    with _replacing(path, 0o644) as descriptor:
        os.write(descriptor, content)


def write_private(path: Path, content: bytes) -> None:
    """Puts a file there whole, that nobody but its owner could ever read."""
    with _replacing(path, 0o600) as descriptor:
        os.write(descriptor, content)


@contextmanager
def _replacing(path: Path, mode: int) -> Iterator[int]:
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except OSError as error:
        raise PermissionRefused(
            f"{path} cannot be written ({error.strerror}); give a directory in which this user may make files"
        ) from error
    try:
        try:
            yield descriptor
            os.fchmod(descriptor, mode)  # whatever the umask says
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise NoInput(f"{path} cannot be read ({error.strerror}); expected a certificate") from None
    except ValueError as error:
        raise ConfigError(f"{path} holds no certificate in PEM form ({error})") from None


def _issued(certificate: x509.Certificate, revoked: dict[int, datetime]) -> Issued:
    return Issued(
        peer_in(certificate.public_bytes(serialization.Encoding.PEM)),
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
        revoked.get(certificate.serial_number),
    )


def _revoked(directory: Path) -> dict[int, datetime]:
    return {entry.serial_number: entry.revocation_date_utc for entry in read_list(directory)}


def _number(found: x509.CertificateRevocationList) -> int:
    return found.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number


def _pem(found: x509.CertificateRevocationList) -> bytes:
    return found.public_bytes(serialization.Encoding.PEM)
