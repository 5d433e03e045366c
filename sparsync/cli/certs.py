"""`sparsync certs`: an authority of one's own, the certificates that it signs, and which of them hold no more."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sparsync.cli.security import SecurityFlags, security_options
from sparsync.cli.which_run import TIMEOUT_S, address_of, ask, coordinator_option, run_options

if TYPE_CHECKING:
    from datetime import datetime

    from sparsync.authority import Authority, Issued
    from wire.rpc.identity import Security
    from wire.rpc.pem_files import PemFiles

Command = TypeVar("Command", bound=Callable[..., Any])

ROLES = ("coordinator", "ps", "worker", "operator", "viewer")
DIRECTORY = Path("certs")
"""Of the authority, where none is named."""
SOON_DAYS = 30


@click.group()
def certs() -> None:
    """Issue, renew and revoke certificates."""


def directory_option(command: Command) -> Command:
    return click.option(
        "--dir",
        "directory",
        type=click.Path(path_type=Path),
        default=DIRECTORY,
        show_default=True,
        help="Directory of the authority.",
    )(command)


def passphrase_option(command: Command) -> Command:
    return click.option(
        "--passphrase-file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Its first line is the passphrase of the authority's key.",
    )(command)


def days_option(command: Command) -> Command:
    return click.option(
        "--days", type=click.FloatRange(min=0, min_open=True), help="How long it is to be good."
    )(command)


def json_option(command: Command) -> Command:
    return click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")(command)


@certs.command()
@click.argument("directory", type=click.Path(path_type=Path), default=DIRECTORY, metavar="[DIR]")
@days_option
@passphrase_option
@json_option
def init(directory: Path, days: float | None, passphrase_file: Path | None, as_json: bool) -> None:
    """Make an authority in DIR (certs): its certificate, its key, its empty list of the revoked.

    Keep the key off the machines of the run: it is needed to issue and to revoke, and for nothing else.
    """
    from sparsync.authority import AUTHORITY_KEY, CA, LIST, Authority
    from sparsync.certificates import AUTHORITY_DAYS

    made = Authority.create(
        directory, now=_now(), days=days or AUTHORITY_DAYS, passphrase=_passphrase(passphrase_file)
    )
    ends = made.certificate.not_valid_after_utc
    if as_json:
        paths = {
            name: str(directory / file) for name, file in (("ca", CA), ("key", AUTHORITY_KEY), ("crl", LIST))
        }
        click.echo(json.dumps({"dir": str(directory), **paths, "ends": ends.isoformat()}, indent=2))
        return
    click.echo(f"authority   {directory / CA}, good until {ends:%Y-%m-%d}")
    click.echo(f"its key     {directory / AUTHORITY_KEY}")
    click.echo(
        f"next: sparsync certs issue --dir {directory} --role coordinator --name coordinator", err=True
    )


@certs.command()
@click.option("--role", type=click.Choice(ROLES), required=True)
@click.option(
    "--name", "names", required=True, multiple=True, help="May be repeated: a certificate for each."
)
@days_option
@click.option("--out", type=click.Path(path_type=Path), help="Where its files go; else DIR/ROLE-NAME.")
@directory_option
@passphrase_option
@json_option
def issue(
    role: str,
    names: Sequence[str],
    days: float | None,
    out: Path | None,
    directory: Path,
    passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """Issue a certificate for a role and a name: a directory of ca.pem, cert.pem and key.pem.

    In the run it may be NAME, and NAME. with anything behind it: node1 is also good for node1.gpu0.
    """
    from wire.errors import UsageError
    from wire.rpc.identity import Role

    if out is not None and len(names) > 1:
        raise UsageError("--out takes one certificate; leave it away, or give one --name")
    authority = _authority(directory, passphrase_file)
    now = _now()
    made = [authority.issue(Role(role), name, now=now, days=days, out=out) for name in names]
    _tell(made, as_json=as_json, now=now)


@certs.command()
@click.argument("which", nargs=-1, metavar="[NAME|ROLE/NAME|SERIAL]...")
@click.option("--within", type=float, metavar="DAYS", help="All that end within so many days.")
@days_option
@click.option("--out", type=click.Path(path_type=Path), help="Where its files go; else DIR/ROLE-NAME.")
@directory_option
@passphrase_option
@json_option
def renew(
    which: Sequence[str],
    within: float | None,
    days: float | None,
    out: Path | None,
    directory: Path,
    passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """Issue the next certificate, with a new key, for as long as the one before.

    The older one stays good until it ends or is revoked by its serial number. Roles take up new files without a
    restart.
    """
    from sparsync.authority import expiring, find, latest
    from sparsync.certificates import BACK
    from wire.errors import NoInput, UsageError

    if bool(which) == (within is not None):
        raise UsageError("which certificates? give their names, or --within DAYS")
    authority = _authority(directory, passphrase_file)
    now, issued = _now(), authority.issued()
    found = expiring(issued, now=now, days=within) if within is not None else []
    for word in which:
        named = [one for one in latest(find(issued, word)) if one.revoked is None]
        if not named:
            raise NoInput(
                f"{word}: no certificate of that name that is not revoked; look at `sparsync certs show`, "
                "and issue a new one with `sparsync certs issue`"
            )
        found += named
    if out is not None and len(found) > 1:
        raise UsageError(f"--out takes one certificate, and {len(found)} are meant; leave it away")
    made = []
    for old in found:
        role, lasts = old.peer.role, (old.ends - old.begins - BACK).total_seconds() / 86_400
        assert role is not None
        made.append(authority.issue(role, old.peer.name, now=now, days=days or lasts, out=out, again=True))
    _tell(made, as_json=as_json, now=now)
    if not as_json and not made:
        click.echo("nothing to renew", err=True)


@certs.command()
@click.argument("which", metavar="NAME|ROLE/NAME|SERIAL")
@coordinator_option
@security_options
@directory_option
@passphrase_option
@json_option
def revoke(
    which: str,
    coordinator: str | None,
    security: SecurityFlags,
    directory: Path,
    passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """Revoke all good certificates of a name, or the one of a serial number.

    This writes DIR/crl.pem, and hands it to the live run of --coordinator where that is given.
    """
    from sparsync.authority import LIST

    ended = _authority(directory, passphrase_file).revoke(which, now=_now())
    path = directory / LIST
    told: dict[str, Any] = {"crl": str(path), "revoked": [_as_json(one) for one in ended]}
    if not as_json:
        for one in ended:
            click.echo(f"revoked     {one.peer}, serial {one.peer.serial}")
        click.echo(f"list        {path}")
    if coordinator is not None:
        told["run"] = _hand_over(path, coordinator, security.resolve(), as_json=as_json)
    elif not as_json:
        click.echo("next: sparsync certs deny, for a live run that does not read that file", err=True)
    if as_json:
        click.echo(json.dumps(told, indent=2))


@certs.command()
@run_options
@click.option("--crl", type=click.Path(path_type=Path), metavar="FILE", help="The list; else DIR/crl.pem.")
@security_options
@directory_option
@json_option
def deny(
    run_dir: Path | None,
    coordinator: str | None,
    crl: Path | None,
    security: SecurityFlags,
    directory: Path,
    as_json: bool,
) -> None:
    """Hand the list of revoked certificates to a live run: their calls end, new ones are refused."""
    from sparsync.authority import LIST

    run = _hand_over(
        crl or directory / LIST,
        address_of(run_dir, coordinator),
        security.resolve(run_dir=run_dir),
        as_json=as_json,
    )
    if as_json:
        click.echo(json.dumps(run, indent=2))


def _hand_over(path: Path, address: str, security: Security, *, as_json: bool) -> dict[str, object]:
    """Raises: NoInput, what the coordinator answers, Unreachable."""
    from wire.errors import NoInput

    try:
        crl = path.read_bytes()
    except OSError as error:
        raise NoInput(
            f"{path} cannot be read ({error.strerror}); expected the authority's crl.pem"
        ) from error
    newer, revoked = ask(address, security, lambda control: control.deny(crl, timeout_s=TIMEOUT_S))
    if not as_json:
        known = "taken" if newer else "known already"
        click.echo(f"the run at {address}: list {known}, {revoked} certificates are revoked", err=True)
    return {"coordinator": address, "newer": newer, "certificates": revoked}


@certs.command()
@click.argument("file", required=False, type=click.Path(path_type=Path), metavar="[CERT.pem]")
@directory_option
@json_option
def show(file: Path | None, directory: Path, as_json: bool) -> None:
    """Show what the authority has issued and revoked, or whom one certificate names and until when."""
    from sparsync.authority import issued_in, read_certificate

    found = [read_certificate(file)] if file is not None else issued_in(directory)
    if as_json:
        click.echo(json.dumps([_as_json(one) for one in found], indent=2))
        return
    now = _now()
    for one in found:
        click.echo(f"{one.peer!s:<28} {_state(one, now):<36} serial {one.peer.serial}")
    if not found:
        click.echo("nothing was issued yet", err=True)


def _state(one: Issued, now: datetime) -> str:
    if one.revoked is not None:
        return f"revoked {one.revoked:%Y-%m-%d %H:%M}"
    left = round((one.ends - now).total_seconds() / 86_400)
    when = f"until {one.ends:%Y-%m-%d}"
    if one.ends <= now:
        return f"ended {one.ends:%Y-%m-%d}"
    return f"{when}, renew now: {left} days" if left < SOON_DAYS else f"{when} ({left} days)"


def _tell(made: Sequence[tuple[Issued, PemFiles]], *, as_json: bool, now: datetime) -> None:
    """What was issued, and where its files are."""
    if as_json:
        told = [
            _as_json(one) | {name: str(path) for name, path in files._asdict().items()} for one, files in made
        ]
        click.echo(json.dumps(told, indent=2))
        return
    for one, files in made:
        click.echo(f"{one.peer!s:<28} {_state(one, now):<28} {files.cert.parent}/")


def _as_json(one: Issued) -> dict[str, Any]:
    return {
        "role": str(one.peer.role),
        "name": one.peer.name,
        "serial": one.peer.serial,
        "begins": one.begins.isoformat(),
        "ends": one.ends.isoformat(),
        "revoked": one.revoked.isoformat() if one.revoked else None,
    }


def _authority(directory: Path, passphrase_file: Path | None) -> Authority:
    from sparsync.authority import Authority

    return Authority(directory, passphrase=_passphrase(passphrase_file))


def _passphrase(file: Path | None) -> bytes | None:
    """The first line of a file that nobody else can read. Raises: PermissionRefused, NoInput, UsageError."""
    from wire.errors import UsageError
    from wire.rpc.pem_files import refuse_open_key

    if file is None:
        return None
    refuse_open_key(file, what="--passphrase-file")
    lines = file.read_bytes().splitlines()
    if not lines or not lines[0]:
        raise UsageError(f"--passphrase-file {file}: its first line is empty; expected the passphrase there")
    return lines[0]


def _now() -> datetime:
    from datetime import UTC, datetime

    return datetime.now(UTC)
