"""`sparsync certs`, as a user calls it: files that are there, for whom, and what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from sparsync.cli import root
from sparsync.cli.certs import ROLES
from tests.sparsync.cli.conftest import Answers
from wire.errors import PermissionRefused, SparsyncError
from wire.rpc.identity import Role, Security
from wire.rpc.revocation import read_lists


@pytest.fixture(autouse=True)
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SPARSYNC_COORDINATOR", raising=False)
    return tmp_path


def certs(*words: str) -> Any:
    """What `sparsync certs … --json` prints. Raises its error."""
    done = CliRunner().invoke(root, ["certs", *words, "--json"])
    if isinstance(done.exception, Exception):
        raise done.exception
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def talk(*words: str) -> str:
    return CliRunner().invoke(root, ["certs", *words], catch_exceptions=False).stdout


def test_the_roles_are_those_of_certificates() -> None:
    assert list(ROLES) == [str(role) for role in Role]


def test_from_nothing_to_a_certificate_that_names_its_holder(there: Path) -> None:
    made = certs("init")
    assert made["dir"] == "certs" and (there / "certs/ca.key").stat().st_mode & 0o777 == 0o600
    (issued,) = certs("issue", "--role", "worker", "--name", "node1")
    security = Security(False, *(Path(issued[file]) for file in ("ca", "cert", "key")))
    own = security.own()
    assert (str(own), own.serial) == ("worker/node1", issued["serial"])
    assert {path.name: path.stat().st_mode & 0o777 for path in (there / "certs/worker-node1").iterdir()} == {
        "ca.pem": 0o644,
        "cert.pem": 0o644,
        "key.pem": 0o600,
    }
    assert "worker/node1" in talk("show") and "(365 days)" in talk("show")


def test_a_directory_that_cannot_be_written_is_told(there: Path) -> None:
    (there / "file").touch()
    with pytest.raises(
        PermissionRefused, match=r"file/certs/ca\.key cannot be written \(Not a directory\); give"
    ):
        certs("init", "file/certs")
    certs("init")
    with pytest.raises(PermissionRefused, match=r"file/out/ca\.pem cannot be written .*; give"):
        certs("issue", "--role", "worker", "--name", "node1", "--out", "file/out")


def test_several_names_and_a_place_of_their_own(there: Path) -> None:
    certs("init", "authority")
    at = ("--dir", "authority")
    both = certs("issue", *at, "--role", "ps", "--name", "ps-0", "--name", "ps-1", "--days", "7")
    assert [one["name"] for one in both] == ["ps-0", "ps-1"]
    (one,) = certs("issue", *at, "--role", "viewer", "--name", "grafana", "--out", "tls")
    assert one["cert"] == "tls/cert.pem" and Path(one["cert"]).exists()
    with pytest.raises(SparsyncError, match="--out takes one certificate"):
        certs("issue", *at, "--role", "ps", "--name", "a", "--name", "b", "--out", "tls")


def test_the_next_certificate_lasts_as_long_and_has_another_key() -> None:
    certs("init")
    (first,) = certs("issue", "--role", "worker", "--name", "node1", "--days", "7")
    key = Path(first["key"]).read_bytes()
    (second,) = certs("renew", "node1")
    assert second["serial"] != first["serial"] and second["key"] == first["key"]
    assert second["ends"][:10] == first["ends"][:10]
    assert Path(second["key"]).read_bytes() != key
    assert len(certs("show")) == 2
    assert certs("renew", "--within", "3") == []
    assert [one["name"] for one in certs("renew", "--within", "8")] == ["node1"]


def test_what_is_revoked_stands_in_a_signed_list(there: Path) -> None:
    certs("init")
    (one,) = certs("issue", "--role", "worker", "--name", "node1")
    (two,) = certs("issue", "--role", "ps", "--name", "node1")
    with pytest.raises(SparsyncError, match="node1 is the name of ps/node1 and worker/node1; say which"):
        certs("revoke", "node1")
    revoked = certs("revoke", "worker/node1")
    assert [entry["serial"] for entry in revoked["revoked"]] == [one["serial"]]
    (found,) = read_lists(Path(revoked["crl"]).read_bytes(), (there / "certs/ca.pem").read_bytes())
    assert found.serials == {one["serial"]}
    assert [entry["serial"] for entry in certs("revoke", two["serial"])["revoked"]] == [two["serial"]]
    with pytest.raises(SparsyncError, match="no good certificate of that name"):
        certs("revoke", "worker/node1")
    with pytest.raises(SparsyncError, match="not revoked"):
        certs("renew", "worker/node1")
    assert "revoked" in talk("show")
    certs("issue", "--role", "worker", "--name", "node1")  # whose machine is in good hands again


def test_a_list_is_handed_to_a_live_run(coordinator: Answers, there: Path) -> None:
    certs("init")
    certs("issue", "--role", "worker", "--name", "node1")
    at = ("--coordinator", coordinator.address)
    run = certs("revoke", "node1", *at)["run"]
    assert run == {"coordinator": coordinator.address, "newer": True, "certificates": 1}
    assert certs("deny", *at)["newer"] is False
    assert coordinator.lists == [(there / "certs/crl.pem").read_bytes()] * 2
    with pytest.raises(SparsyncError, match=r"nowhere\.pem cannot be read"):
        certs("deny", *at, "--crl", "nowhere.pem")


def test_the_authoritys_key_under_a_passphrase(there: Path) -> None:
    secret, wrong, open_to_all = (there / name for name in ("secret", "wrong", "open"))
    for path, text, mode in (
        (secret, "correct horse\n", 0o600),
        (wrong, "x\n", 0o600),
        (open_to_all, "y\n", 0o644),
    ):
        path.write_text(text)
        path.chmod(mode)
    certs("init", "--passphrase-file", str(secret))
    assert b"ENCRYPTED" in (there / "certs/ca.key").read_bytes()
    issue = ("issue", "--role", "worker", "--name", "node1")
    certs(*issue, "--passphrase-file", str(secret))
    for more, text in (
        ((), "give --passphrase-file"),
        (("--passphrase-file", str(wrong)), "passphrase is wrong"),
        (("--passphrase-file", str(open_to_all)), "can be read or written by others"),
        (("--passphrase-file", "nowhere"), "no such file"),
    ):
        with pytest.raises(SparsyncError, match=text):
            certs("issue", "--role", "worker", "--name", "node2", *more)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("issue", "--role", "worker", "--name", "n"), "holds no authority"),
        (("revoke", "n"), "holds no authority"),
        (("show",), "holds no authority"),
        (("show", "nowhere.pem"), "cannot be read"),
    ],
)
def test_without_an_authority(words: tuple[str, ...], text: str) -> None:
    with pytest.raises(SparsyncError, match=text):
        certs(*words)


def test_refusals_say_what_to_do(there: Path) -> None:
    certs("init")
    certs("issue", "--role", "worker", "--name", "node1")
    for words, text in (
        (("init",), "holds an authority already"),
        (("issue", "--role", "worker", "--name", "node1"), "certs renew worker/node1"),
        (("issue", "--role", "worker", "--name", "a/b"), "is no name"),
        (("renew",), "which certificates"),
        (("renew", "node2"), "no certificate of that name"),
        (("revoke", "node2"), "no good certificate"),
    ):
        with pytest.raises(SparsyncError, match=text):
            certs(*words)
    (there / "certs/ca.key").chmod(0o644)
    with pytest.raises(SparsyncError, match="can be read or written by others"):
        certs("revoke", "node1")
    (there / "certs/ca.key").unlink()
    with pytest.raises(SparsyncError, match="where `certs init` left the key"):
        certs("revoke", "node1")
    assert len(certs("show")) == 1  # which needs no key


def test_a_umask_changes_nothing(there: Path) -> None:
    before = os.umask(0o000)
    try:
        certs("init")
        (one,) = certs("issue", "--role", "worker", "--name", "node1")
    finally:
        os.umask(before)
    for private in (there / "certs/ca.key", Path(one["key"])):
        assert private.stat().st_mode & 0o077 == 0


def test_show_tells_whom_a_file_names() -> None:
    certs("init")
    (one,) = certs("issue", "--role", "operator", "--name", "me")
    (shown,) = certs("show", one["cert"])
    assert (shown["role"], shown["name"], shown["serial"]) == ("operator", "me", one["serial"])
    assert "operator/me" in talk("show", one["cert"])
