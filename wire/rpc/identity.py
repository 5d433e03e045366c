"""Who one is on the wire: TLS with mutual authentication, or plain text on loopback.

Either all three PEM files are given or none. Without them a server listens on loopback only,
unless `insecure` says that the network itself is trusted.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import grpc

from wire.errors import ConfigError, NoInput, PermissionRefused
from wire.rpc.address import is_loopback

ALPN = ["h2"]


class _Pems(NamedTuple):
    ca: bytes
    cert: bytes
    key: bytes


@dataclass(frozen=True)
class Security:
    """How connections are protected; the same for listening and for dialling."""

    insecure: bool = False
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None

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
        return not missing

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

    def server_credentials(self) -> grpc.ServerCredentials | None:
        """Credentials that demand a certificate of every client; None in plain text.

        Raises:
            ConfigError, NoInput, PermissionRefused: about the PEM files, by name.
        """
        if not self.tls:
            return None
        pems = self._pems()
        return grpc.ssl_server_credentials(
            [(pems.key, pems.cert)], root_certificates=pems.ca, require_client_auth=True
        )

    def channel_credentials(self) -> grpc.ChannelCredentials | None:
        """Credentials that show our certificate and check the server's; None in plain text.

        Raises:
            ConfigError, NoInput, PermissionRefused: about the PEM files, by name.
        """
        if not self.tls:
            return None
        pems = self._pems()
        return grpc.ssl_channel_credentials(
            root_certificates=pems.ca, private_key=pems.key, certificate_chain=pems.cert
        )

    def ssl_context(self) -> ssl.SSLContext:
        """The same client side for Python's own TLS, which gives better reasons when a handshake fails.

        Raises:
            ConfigError: a file does not hold what it should.
        """
        assert self.tls and self.tls_ca and self.tls_cert and self.tls_key
        try:
            context = ssl.create_default_context(cafile=str(self.tls_ca))
        except ssl.SSLError as error:
            raise ConfigError(
                f"--tls-ca {self.tls_ca} holds no CA certificate in PEM form: {error}"
            ) from error
        try:
            context.load_cert_chain(self.tls_cert, self.tls_key)
        except ssl.SSLError as error:
            raise ConfigError(
                f"--tls-cert {self.tls_cert} and --tls-key {self.tls_key} are no certificate "
                f"with its own private key in PEM form: {error}"
            ) from error
        context.set_alpn_protocols(ALPN)
        return context

    def _pems(self) -> _Pems:
        assert self.tls_ca and self.tls_cert and self.tls_key
        pems = _Pems(
            _read_pem("--tls-ca", self.tls_ca),
            _read_pem("--tls-cert", self.tls_cert),
            _read_pem("--tls-key", self.tls_key),
        )
        self.ssl_context()  # gRPC would find a bad file only at the first handshake, and not name it
        return pems


def _read_pem(flag: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise NoInput(f"{flag} {path}: no such file; expected a PEM file") from error
    except OSError as error:
        raise PermissionRefused(
            f"{flag} {path} cannot be read ({error.strerror}); check its owner and mode"
        ) from error
