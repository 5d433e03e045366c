"""A command line is checked as a whole before anything is written; roles are called as it says."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from coordinator.journal import Journal
from coordinator.records import Began
from sparsync.authority import Authority
from sparsync.cli.security import SecurityFlags
from sparsync.launch_plan import (
    Launch,
    Place,
    create_run,
    error_with_code,
    forget_shards,
    plan_launch,
    prepare_data,
    role_arguments,
    role_environment,
)
from tests.sparsync.checkpoints import write_checkpoint
from wire.config import load
from wire.errors import ConfigError, DataRefused, NoInput, SparsyncError, UsageError
from wire.files import own

ADDRESS = "127.0.0.1:4001"


@pytest.fixture(autouse=True)
def _clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("SPARSYNC_RUN__STEPS", "SPARSYNC_CLUSTER__WORKERS"):
        monkeypatch.delenv(name, raising=False)


def plan(
    *overrides: str, out: Path | None = None, resume: Path | None = None, command: tuple[str, ...] = ()
) -> Launch:
    return plan_launch(None, overrides, out=out, resume=resume, command=command)


def finished_run(path: Path, *, step: int = 60, command: tuple[str, ...] = ()) -> Path:
    """A run directory as it stands after a run, made by what makes it."""
    create_run(plan(f"run.steps={step}", "cluster.workers=3", out=path, command=command))
    write_checkpoint(path, step)
    (path / "summary.json").write_text('{"steps": 60}')
    (path / "address").write_text("127.0.0.1:9\n")
    return path


def test_a_new_run(tmp_path: Path) -> None:
    launch = plan("cluster.servers=1", "cluster.workers=2")
    assert launch.run.path.parent == tmp_path / "runs"
    assert launch.roles == {
        "coordinator": "coordinator",
        "ps-0": "ps",
        "worker-0": "worker",
        "worker-1": "worker",
    }
    assert list(tmp_path.iterdir()) == [], "planning writes nothing"


def test_faults_are_found_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"run\.steps"):
        plan("run.stepz=3")
    with pytest.raises(NoInput, match=r"nowhere\.py: no such script"):
        plan(command=("nowhere.py",))
    with pytest.raises(NoInput, match="cannot read the configuration file"):
        plan_launch(tmp_path / "none.toml", (), out=None, resume=None, command=())
    assert list(tmp_path.iterdir()) == []


def test_an_older_run_is_not_written_over(tmp_path: Path) -> None:
    out = finished_run(tmp_path / "run")
    with pytest.raises(UsageError, match="already holds a run"):
        plan(out=out)


def test_resume_takes_the_configuration_of_the_run(tmp_path: Path) -> None:
    out = finished_run(tmp_path / "run")
    launch = plan("run.steps=120", resume=out)
    assert launch.run.path == out
    assert launch.checkpoint is not None and launch.checkpoint.step == 60
    assert (launch.config.cluster.workers, launch.config.run.steps) == (3, 120)
    assert launch.loaded.origins["cluster.workers"] == str(out / "config.toml")


def test_resume_into_another_directory(tmp_path: Path) -> None:
    out = finished_run(tmp_path / "run")
    launch = plan("run.steps=120", resume=out / "checkpoints" / "step-60", out=tmp_path / "other")
    assert launch.run.path == tmp_path / "other"
    with pytest.raises(UsageError, match="already holds a run"):
        plan("run.steps=120", resume=out, out=finished_run(tmp_path / "third"))


def test_resume_with_nothing_left_to_do_is_refused(tmp_path: Path) -> None:
    out = finished_run(tmp_path / "run")
    with pytest.raises(UsageError, match=r"raise it, as in -s run\.steps=120"):
        plan(resume=out)


def test_resume_trains_the_same_script(tmp_path: Path) -> None:
    script = tmp_path / "my.py"
    script.write_text("")
    out = finished_run(tmp_path / "run", command=("my.py", "--lr", "3"))
    assert plan("run.steps=120", resume=out).command == (str(script), "--lr", "3")
    assert plan("run.steps=120", resume=out, command=("my.py",)).command == (str(script),)
    script.unlink()
    with pytest.raises(NoInput, match="no such script"):
        plan("run.steps=120", resume=out)


def test_a_run_directory_is_made_for_the_roles(tmp_path: Path) -> None:
    launch = plan("run.steps=7", out=tmp_path / "run")
    create_run(launch)
    assert load(launch.run.config, (), {}).config == launch.config
    assert launch.run.logs.is_dir()


def test_a_resumed_directory_is_cleared_of_what_would_mislead(tmp_path: Path) -> None:
    out = finished_run(tmp_path / "run")
    create_run(plan("run.steps=120", resume=out))
    assert not (out / "address").exists() and not (out / "summary.json").exists()
    assert (out / "summary.previous.json").read_text() == '{"steps": 60}'


def test_a_live_run_stays_as_it_is_where_it_is_resumed(authority: Authority, tmp_path: Path) -> None:
    out = finished_run(tmp_path / "run")
    launch = plan("run.steps=120", f"security.authority={authority.directory}", resume=out)
    with own(out, "coordinator"):
        before = contents(out)
        with pytest.raises(
            UsageError, match=r"another coordinator works in .*run; give this one another --out"
        ):
            create_run(launch)
        assert contents(out) == before
    create_run(launch)
    assert contents(out) != before


def contents(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_a_resumed_run_that_was_not_over_begins_anew_beside_its_journal(tmp_path: Path) -> None:
    """However often: `train` may be killed at any moment."""
    out = finished_run(tmp_path / "run")
    for timeline in (1, 2):
        journal = Journal(out / "journal.sqlite")
        journal.append(Began("r", timeline, 1, "ab", 0, ""))
        journal.commit()
        journal.close()
        create_run(plan("run.steps=120", resume=out))
        create_run(plan("run.steps=120", resume=out))
        assert not (out / "journal.sqlite").exists()
    assert {path.name for path in out.glob("journal*")} == {f"journal-timeline-{n}.sqlite" for n in (1, 2)}


def test_what_servers_left_of_an_earlier_timeline_is_no_obstacle(tmp_path: Path) -> None:
    out = finished_run(tmp_path / "run")
    for name in ("ps-0", "worker-0"):
        (out / name / "log").mkdir(parents=True)
    forget_shards(plan("run.steps=120", resume=out))
    assert not (out / "ps-0").exists() and (out / "worker-0").exists() and (out / "checkpoints").exists()
    (out / "ps-0").mkdir()
    forget_shards(plan(out=out.with_name("new")))
    assert (out / "ps-0").exists()


def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cannot be written .* give another --out"):
        create_run(plan(out=tmp_path / "file" / "run"))


def test_how_the_roles_are_called(tmp_path: Path) -> None:
    (tmp_path / "my.py").write_text("")
    launch = plan(out=tmp_path / "run", command=("my.py", "--lr", "3"))
    here = str(tmp_path / "run")
    assert role_arguments(launch, "coordinator", address=None) == [
        "coordinator", "--config", f"{here}/config.toml", "--listen", "127.0.0.1:0", "--data-dir", here,
    ]  # fmt: skip
    assert role_arguments(launch, "ps-1", address=ADDRESS) == [
        "ps", "--coordinator", ADDRESS, "--name", "ps-1", "--data-dir", f"{here}/ps-1", "--listen", "127.0.0.1:0",
    ]  # fmt: skip
    assert role_arguments(launch, "worker-0", address=ADDRESS) == [
        "worker", "--coordinator", ADDRESS, "--name", "worker-0", "--data-dir", f"{here}/worker-0",
        f"{tmp_path}/my.py", "--lr", "3",
    ]  # fmt: skip


def test_each_process_listens_at_its_place(tmp_path: Path) -> None:
    places = {
        "coordinator": Place(listen="10.0.0.1:0"),
        "ps-0": Place(within=("ip", "netns", "exec", "there"), listen="10.0.0.2:7", advertise="10.0.0.3:8"),
    }
    launch = replace(plan(out=tmp_path / "run"), places=places)
    coordinator, *servers = (
        role_arguments(launch, p, address=ADDRESS) for p in ("coordinator", "ps-0", "ps-1")
    )
    assert coordinator[coordinator.index("--listen") + 1] == ADDRESS, "where it served before"
    begins = role_arguments(launch, "coordinator", address=None)
    assert begins[begins.index("--listen") + 1] == "10.0.0.1:0"
    assert servers[0][-4:] == ["--listen", "10.0.0.2:7", "--advertise", "10.0.0.3:8"]
    assert servers[1][-2:] == ["--listen", "127.0.0.1:0"]
    assert launch.place("ps-0").within == ("ip", "netns", "exec", "there")
    assert launch.place("worker-0") == Place()


def test_a_resumed_coordinator_is_given_the_checkpoint(tmp_path: Path) -> None:
    out = finished_run(tmp_path / "run")
    arguments = role_arguments(plan("run.steps=120", resume=out), "coordinator", address=None)
    assert arguments[-2:] == ["--resume", str(out / "checkpoints" / "step-60")]


def test_a_coordinator_that_is_started_again_goes_on_where_it_served(tmp_path: Path) -> None:
    out = finished_run(tmp_path / "run")
    arguments = role_arguments(plan("run.steps=120", resume=out), "coordinator", address=ADDRESS)
    assert arguments[arguments.index("--listen") + 1] == ADDRESS
    assert "--resume" not in arguments, "the checkpoint lies behind it"


@pytest.mark.parametrize(
    ("ack", "replicas", "servers", "durable"),
    [("os", 0, 2, True), ("disk", 1, 4, True), ("memory", 1, 4, True), ("memory", 0, 2, False)],
)
def test_a_standby_a_shard_is_a_server_more(ack: str, replicas: int, servers: int, durable: bool) -> None:
    launch = plan("cluster.servers=2", f'durability.ack="{ack}"', f"durability.replicas={replicas}")
    assert [name for name, role in launch.roles.items() if role == "ps"] == [
        f"ps-{i}" for i in range(servers)
    ]
    assert launch.durable is durable


def test_with_an_authority_each_process_has_its_own_certificate(authority: Authority, tmp_path: Path) -> None:
    launch = plan(f"security.authority={authority.directory}", "cluster.workers=2", out=tmp_path / "run")
    create_run(launch)
    for process, role in launch.roles.items():
        own = launch.security_of(process).own()
        assert (own.role, own.name) == (role, process)
        arguments = role_arguments(launch, process, address=ADDRESS)
        at = arguments.index("--tls-ca")
        folder = tmp_path / "run" / "tls" / process
        files = ["--tls-ca", "ca.pem", "--tls-cert", "cert.pem", "--tls-key", "key.pem"]
        assert arguments[at : at + 6] == [w if w[0] == "-" else str(folder / w) for w in files]
        assert arguments[at + 6 : at + 8] == ["--tls-crl", str(authority.directory / "crl.pem")]
    assert str(launch.security.own()) == "operator/launcher"
    assert (
        SecurityFlags(False, None, None, None).resolve(run_dir=launch.run.path).own() == launch.security.own()
    )


def test_without_an_authority_the_run_is_in_plain_text(tmp_path: Path) -> None:
    launch = plan(out=tmp_path / "run")
    create_run(launch)
    assert not launch.security.tls and not (tmp_path / "run/tls").exists()
    assert not SecurityFlags(False, None, None, None).resolve(run_dir=launch.run.path).tls


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (("tls_ca=ca.pem", "tls_cert=c.pem", "tls_key=k.pem"), "a certificate names one role"),
        (("tls_ca=ca.pem",), "a certificate names one role"),
        (("tls_crl=crl.pem",), "nobody shows certificates"),
        (("authority=nowhere",), "holds no authority"),
        (("authority=certs", "insecure=true"), "beside TLS files or insecure"),
    ],
)
def test_what_cannot_give_each_process_a_certificate(settings: tuple[str, ...], text: str) -> None:
    with pytest.raises(SparsyncError, match=text):
        plan(*(f"security.{setting}" for setting in settings))


def test_the_environment_of_a_worker() -> None:
    launch = plan("cluster.compute_threads=2")
    given = {"PATH": "/bin", "SPARSYNC_RUN__STEPS": "5", "OMP_NUM_THREADS": "64"}
    found = role_environment(launch, "worker-1", address=ADDRESS, environ=given)
    assert found == {
        "PATH": "/bin",
        "OMP_NUM_THREADS": "2",
        "MKL_NUM_THREADS": "2",
        "PYTHONUNBUFFERED": "1",
        "SPARSYNC_COORDINATOR": ADDRESS,
        "LOCAL_RANK": "1",
    }
    assert "LOCAL_RANK" not in role_environment(launch, "ps-1", address=ADDRESS, environ=given)


def test_errors_keep_their_class_through_an_exit_code() -> None:
    assert error_with_code(66) is NoInput
    assert error_with_code(1) is error_with_code(-9) is SparsyncError


@pytest.fixture
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The child finds the package that is under test, installed or not."""
    monkeypatch.setenv("PYTHONPATH", str(Path(sys.modules["sparsync"].__file__ or "").parent.parent))


@pytest.mark.usefixtures("_importable")
def test_data_is_prepared_by_a_child_whose_errors_come_back(tmp_path: Path) -> None:
    cache = f"data.cache_dir={tmp_path / 'cache'}"
    with pytest.raises(NoInput, match="nowhere"):
        prepare_data(load(None, ("data.source=./nowhere", cache), {}).config)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataRefused):
        prepare_data(load(None, (f"data.source={tmp_path / 'empty'}", cache), {}).config)
    (tmp_path / "text").mkdir()
    for name in "abcdef":
        (tmp_path / "text" / f"{name}.txt").write_text(f"{name} words " * 3000)
    prepared = prepare_data(load(None, (f"data.source={tmp_path / 'text'}", cache), {}).config)
    assert prepared["train_tokens"] > 0 and prepared["digest"]
