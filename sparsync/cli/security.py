"""The security flags that several commands take, and how they become a `Security`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

if TYPE_CHECKING:
    from wire.config import SecurityConfig
    from wire.rpc.identity import Security

Result = TypeVar("Result")


class SecurityFlags(NamedTuple):
    """The flags as given: each goes before its value in the `security` section (file, environment).

    `--insecure` without TLS files goes before all of them: plain text.
    """

    insecure: bool
    tls_ca: Path | None
    tls_cert: Path | None
    tls_key: Path | None
    tls_crl: Path | None = None

    def resolve(self, section: SecurityConfig | None = None, *, run_dir: Path | None = None) -> Security:
        """`section`: of a configuration file; without it, what the environment says, else the run's own certificates.

        Raises ConfigError.
        """
        from sparsync.launch_certificates import operator_of
        from sparsync.run_directory import RunDirectory
        from wire.config import environment, load
        from wire.rpc.identity import Security

        files = any((self.tls_ca, self.tls_cert, self.tls_key))
        if self.insecure and not files:
            return Security(*self)
        if section is None:
            section = load(None, (), environment()).config.security
        found = Security.configured(section)
        if run_dir is not None and found == Security() and not files:
            found = operator_of(RunDirectory(run_dir)) or found
        given: dict[str, Any] = {name: value for name, value in self._asdict().items() if value}
        return replace(found, **given)


def security_options(command: Callable[..., Result]) -> Callable[..., Result]:
    """`--tls-ca`, `--tls-cert`, `--tls-key`, `--tls-crl` and `--insecure`, passed as `security: SecurityFlags`."""

    @wraps(command)
    def with_flags(
        *, insecure: bool, tls_ca: Any, tls_cert: Any, tls_key: Any, tls_crl: Any, **others: Any
    ) -> Result:
        return command(security=SecurityFlags(insecure, tls_ca, tls_cert, tls_key, tls_crl), **others)

    pem = click.Path(path_type=Path)
    options = (
        click.option("--tls-ca", type=pem, help="PEM file of the authority that signs every certificate."),
        click.option("--tls-cert", type=pem, help="PEM file of this process's certificate."),
        click.option("--tls-key", type=pem, help="PEM file of its private key."),
        click.option("--tls-crl", type=pem, help="PEM file of the authority's list of revoked certificates."),
        click.option("--insecure", is_flag=True, help="Allow plain text beyond this machine."),
    )
    decorated: Callable[..., Result] = with_flags
    for option in reversed(options):
        decorated = option(decorated)
    return decorated
