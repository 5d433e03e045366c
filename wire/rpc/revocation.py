"""Certificates that hold no more: lists of serial numbers, each signed by an authority that this process trusts.

A list is a CRL in PEM form (`sparsync certs revoke` makes it; any authority can). Of one authority the list with the
greatest number holds, wherever it came from: handed over in a call, or found in a file that is looked at each second.
What was taken holds at once, and is kept, so that a role that is started again knows it before it answers anybody;
a full disk delays the second, never the first. Dates in a list are not looked at: the newest one holds until there is
a newer one.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from wire.errors import ConfigError, DamagedFile, NotWritten, PermissionRefused, SparsyncError
from wire.files import replace_durably
from wire.rpc.identity import Security
from wire.rpc.pem_files import Stamp, stamp_of

if TYPE_CHECKING:
    from cryptography import x509

_BLOCK = re.compile(rb"-----BEGIN X509 CRL-----.+?-----END X509 CRL-----\s*", re.DOTALL)
KEPT = "revoked.pem"
MOST_BYTES = 4 << 20
"""Of one authority's list: about fifty thousand certificates."""
log = logging.getLogger(__name__)


class RevocationList(NamedTuple):
    """One authority's list.

    Attributes:
        issuer: the authority's name.
        serials: of certificates, as lower-case hexadecimal digits.
    """

    issuer: str
    number: int
    serials: frozenset[str]
    pem: bytes


def read_lists(pem: bytes, ca: bytes) -> list[RevocationList]:
    """The lists in `pem` that one of the authorities in `ca` has signed; what others have signed is nothing to us.

    Raises:
        ConfigError: there is none, one is longer than `MOST_BYTES`, or has no number.
        PermissionRefused: none is signed by anybody known.
    """
    from cryptography import x509

    blocks = _BLOCK.findall(pem)
    if not blocks or len(max(blocks, key=len)) > MOST_BYTES:
        raise ConfigError(
            f"no revocation list in PEM form of at most {MOST_BYTES} bytes; expected what "
            "`sparsync certs revoke` leaves in crl.pem"
        )
    try:
        authorities = x509.load_pem_x509_certificates(ca)
        lists = [(block, x509.load_pem_x509_crl(block)) for block in blocks]
        ours = [_read(block, one) for block, one in lists if any(_signed(one, each) for each in authorities)]
    except ValueError as error:
        raise ConfigError(f"what stands there is no revocation list ({error})") from error
    if not ours:
        issuers = " and ".join(sorted({one.issuer.rfc4514_string() for _, one in lists}))
        raise PermissionRefused(
            f"a revocation list of {issuers} is signed by no authority in --tls-ca; expected one of the run's own"
        )
    return ours


def _read(block: bytes, found: x509.CertificateRevocationList) -> RevocationList:
    from cryptography import x509

    issuer = found.issuer.rfc4514_string()
    try:
        number = found.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except x509.ExtensionNotFound:
        raise ConfigError(
            f"the revocation list of {issuer!r} has no number, so nobody could tell which is the newest"
        ) from None
    return RevocationList(issuer, number, frozenset(f"{entry.serial_number:x}" for entry in found), block)


def _signed(found: x509.CertificateRevocationList, authority: x509.Certificate) -> bool:
    try:
        return found.issuer == authority.subject and found.is_signature_valid(authority.public_key())  # type: ignore[arg-type]
    except TypeError:  # a key of a kind that signs no lists
        return False


class Revocations:
    """What a role knows to be revoked.

    Args:
        ca: PEM file of the authorities.
        kept: where it keeps what it has taken.
        given: a file that is looked at, if there is one.
        tell: takes all serial numbers whenever there are others, and at the start.
    """

    def __init__(
        self, ca: Path, *, kept: Path, given: Path | None, tell: Callable[[frozenset[str]], None]
    ) -> None:
        """Raises: DamagedFile where what was kept cannot be read; what is wrong with `given`."""
        self._ca, self._kept, self._given, self._tell = ca, kept, given, tell
        self._lists: dict[str, RevocationList] = {}
        self._stamp: Stamp | None = None
        self._problems: list[str] = []
        if kept.exists():
            try:
                self._merge(read_lists(kept.read_bytes(), ca.read_bytes()))
            except (
                PermissionRefused
            ) as error:  # of an authority that was left behind, and its certificates with it
                log.info("%s: %s", kept, error)
            except SparsyncError as error:
                raise DamagedFile(
                    f"{kept}: {error}; put the authority's newest list there instead, or remove the file if nothing "
                    "was ever revoked"
                ) from error
        self._on_disk = True
        self._look_at_given()
        tell(self.serials)
        self.look()

    @property
    def pem(self) -> bytes:
        """All lists that hold, to be handed on."""
        return b"".join(known.pem for known in self._lists.values())

    @property
    def serials(self) -> frozenset[str]:
        """Of all certificates that hold no more."""
        return frozenset().union(*(known.serials for known in self._lists.values()))

    def take(self, pem: bytes) -> bool:
        """Takes what is newer than what is known and tells it, then keeps it; whether there was anything.

        Raises:
            ConfigError, PermissionRefused: as `read_lists`; then nothing has changed.
            NotWritten: it holds, but not beyond a restart; the next `take` or `look` tries again.
        """
        self._merge(read_lists(pem, self._ca.read_bytes()))
        if self._on_disk:
            return False
        log.info("%d certificates are revoked", len(self.serials))
        self._tell(self.serials)
        self._keep()
        return True

    def look(self) -> None:
        """Takes what stands in the given file, if that has changed, and keeps what could not be kept before.

        What cannot be taken or kept is logged, once.
        """
        problems = []
        for attempt in (self._take_given, self._keep):
            try:
                attempt()
            except (SparsyncError, OSError) as error:
                problems.append(str(error))
        if problems != self._problems:
            for problem in problems:
                log.warning("%s; what was revoked before stays so", problem)
        self._problems = problems

    def _take_given(self) -> None:
        if self._look_at_given():
            log.info("%d certificates are revoked", len(self.serials))
            self._tell(self.serials)

    def _look_at_given(self) -> bool:
        """Whether the given file has changed and has what is newer; one that cannot be taken is looked at again."""
        if self._given is None or (stamp := stamp_of(self._given)) == self._stamp:
            return False
        newer = self._merge(_lists_in(self._given, self._ca.read_bytes()))
        self._stamp = stamp
        return newer

    def _keep(self) -> None:
        if self._on_disk:
            return
        try:
            replace_durably(self._kept, self.pem)
        except OSError as error:
            raise NotWritten(
                f"{self._kept} cannot be written ({error.strerror}): what is revoked is refused from now on, but would "
                "be good again after a restart; make room, then hand the list over again"
            ) from error
        self._on_disk = True

    def _merge(self, found: Iterable[RevocationList]) -> bool:
        newer = [
            one
            for one in found
            if one.issuer not in self._lists or one.number > self._lists[one.issuer].number
        ]
        self._lists |= {one.issuer: one for one in sorted(newer, key=lambda one: one.number)}
        if newer:
            self._on_disk = False
        return bool(newer)


def open_revocations(
    security: Security, directory: Path, *, tell: Callable[[frozenset[str]], None]
) -> Revocations | None:
    """What a role that keeps its files in `directory` knows to be revoked; None in plain text.

    Raises: as `Revocations`.
    """
    files = security.files
    return files and Revocations(files.ca, kept=directory / KEPT, given=security.tls_crl, tell=tell)


def is_revoked(known: Revocations | None, serial: str) -> bool:
    """Whether the certificate of that serial number holds no more."""
    return known is not None and serial in known.serials


def _lists_in(path: Path, ca: bytes) -> list[RevocationList]:
    """As `read_lists`, of a file that is named in what is raised."""
    try:
        return read_lists(path.read_bytes(), ca)
    except OSError as error:
        raise PermissionRefused(
            f"--tls-crl {path} cannot be read ({error.strerror}); expected the authority's crl.pem"
        ) from error
    except (ConfigError, PermissionRefused) as error:
        raise type(error)(f"--tls-crl {path}: {error}") from error
