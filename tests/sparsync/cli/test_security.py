"""Flags of security go before what is configured, each before the value of its own name."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparsync.cli.security import SecurityFlags
from wire.config import SecurityConfig
from wire.errors import ConfigError
from wire.rpc.identity import Security

CA, CERT, KEY, LIST = (Path(f"/flags/{name}.pem") for name in ("ca", "cert", "key", "crl"))
THERE = {name: f"/there/{name}.pem" for name in ("tls_ca", "tls_cert", "tls_key", "tls_crl")}
CONFIGURED = Security(False, *map(Path, THERE.values()))
THREE = SecurityFlags(False, CA, CERT, KEY)


@pytest.fixture(autouse=True)
def _nothing_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("INSECURE", "TLS_CA", "TLS_CERT", "TLS_KEY", "TLS_CRL", "AUTHORITY"):
        monkeypatch.delenv(f"SPARSYNC_SECURITY__{name}", raising=False)


def test_the_list_of_the_revoked_stays_beside_files_of_the_command_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted = Security(False, CA, CERT, KEY, Path(THERE["tls_crl"]))
    assert THREE.resolve(SecurityConfig(**THERE)) == wanted
    assert THREE.resolve(SecurityConfig(tls_crl=THERE["tls_crl"])) == wanted
    monkeypatch.setenv("SPARSYNC_SECURITY__TLS_CRL", THERE["tls_crl"])
    assert THREE.resolve() == wanted and wanted.tls
    assert THREE._replace(insecure=True).resolve().tls_crl == wanted.tls_crl


def test_each_flag_goes_before_its_own_value() -> None:
    section = SecurityConfig(**THERE)
    assert SecurityFlags(False, None, None, None).resolve(section) == CONFIGURED
    assert SecurityFlags(False, None, CERT, KEY).resolve(section) == Security(
        False, CONFIGURED.tls_ca, CERT, KEY, CONFIGURED.tls_crl
    )
    assert THREE._replace(tls_crl=LIST).resolve(section) == Security(False, CA, CERT, KEY, LIST)
    assert THREE.resolve(SecurityConfig(insecure=True)).tls


def test_files_that_are_not_whole_are_told_of() -> None:
    with pytest.raises(ConfigError, match="--tls-key is missing"):
        _ = SecurityFlags(False, CA, None, None).resolve(SecurityConfig(tls_cert=THERE["tls_cert"])).tls
    with pytest.raises(ConfigError, match="nobody shows certificates"):
        _ = SecurityFlags(False, None, None, None).resolve(SecurityConfig(tls_crl=THERE["tls_crl"])).tls


def test_plain_text_is_plain_whatever_is_configured() -> None:
    insecure = SecurityFlags(True, None, None, None)
    for section in (SecurityConfig(**THERE), SecurityConfig(tls_crl=THERE["tls_crl"]), SecurityConfig()):
        assert insecure.resolve(section) == Security(insecure=True) and not insecure.resolve(section).tls
    assert SecurityFlags(False, None, None, None).resolve(SecurityConfig()) == Security()
