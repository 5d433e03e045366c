"""TLS files: all or none, named when they are wrong; plain text stays on loopback."""

from __future__ import annotations

from pathlib import Path

import pytest

from wire.errors import ConfigError, NoInput, PermissionRefused
from wire.rpc.identity import Security

FILES = {"tls_ca": Path("ca"), "tls_cert": Path("cert"), "tls_key": Path("key")}


def test_all_three_files_or_none() -> None:
    assert not Security().tls
    assert Security(**FILES).tls
    for left_out in FILES:
        flag = "--" + left_out.replace("_", "-")
        with pytest.raises(ConfigError, match=f"{flag} is missing"):
            _ = Security(**{k: v for k, v in FILES.items() if k != left_out}).tls
    with pytest.raises(ConfigError, match="--tls-cert and --tls-key are missing"):
        _ = Security(tls_ca=Path("ca")).tls


def test_plain_text_listens_on_loopback_only() -> None:
    Security().check_listen("127.0.0.1")
    Security().check_listen("::1")
    Security(insecure=True).check_listen("0.0.0.0")
    Security(**FILES).check_listen("0.0.0.0")
    for host in ("0.0.0.0", "::", "10.0.0.1", "node1"):
        with pytest.raises(PermissionRefused, match=r"--tls-ca.*--insecure"):
            Security().check_listen(host)


def test_plain_text_has_no_credentials() -> None:
    assert Security().server_credentials() is None
    assert Security(insecure=True).channel_credentials() is None


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(NoInput, match=r"--tls-ca ca: no such file"):
        Security(**FILES).channel_credentials()


def test_good_files_become_credentials(certificates: dict[str, Security]) -> None:
    assert certificates["ours"].server_credentials() is not None
    assert certificates["ours"].channel_credentials() is not None


def test_wrong_content_is_named(certificates: dict[str, Security], tmp_path: Path) -> None:
    ours, foreign = certificates["ours"], certificates["foreign"]
    junk = tmp_path / "junk.pem"
    junk.write_text("not a certificate")
    with pytest.raises(ConfigError, match=r"--tls-ca .*junk\.pem holds no CA"):
        Security(tls_ca=junk, tls_cert=ours.tls_cert, tls_key=ours.tls_key).server_credentials()
    with pytest.raises(ConfigError, match="no certificate with its own private key"):
        Security(tls_ca=ours.tls_ca, tls_cert=ours.tls_cert, tls_key=foreign.tls_key).channel_credentials()
