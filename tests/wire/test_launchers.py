"""What the environment of torchrun and Slurm says of a process's place."""

from __future__ import annotations

import pytest

from wire.config import load
from wire.errors import ConfigError
from wire.launchers import Address, Place, Told, master_port, place_in

TORCHRUN = {
    "RANK": "11",
    "WORLD_SIZE": "16",
    "LOCAL_RANK": "3",
    "MASTER_ADDR": "node1",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_RUN_ID": "none",
}
SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NTASKS": "8",
    "SLURM_STEP_ID": "0",
}


def test_nobody_has_told() -> None:
    assert place_in({"PATH": "/bin", "RANK": ""}) == Place()
    assert Place().named("worker") is None


def test_under_torchrun_its_port_is_its_own() -> None:
    place = place_in(TORCHRUN)
    assert place == Place(
        Told(11, "RANK"), Told(3, "LOCAL_RANK"), Told(16, "WORLD_SIZE"), Address("node1:7700", "MASTER_ADDR")
    )
    assert place.named("worker") == "worker-11" and place.named("ps") == "ps-11"
    assert master_port(TORCHRUN) is None


def test_elsewhere_the_port_is_the_coordinators() -> None:
    given = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "7800"}
    assert place_in(given).master == Address("10.0.0.1:7800", "MASTER_ADDR, MASTER_PORT")
    assert place_in({"MASTER_ADDR": "fe80::1"}).master == Address("[fe80::1]:7700", "MASTER_ADDR")
    assert place_in({"MASTER_PORT": "7800"}).master is None
    assert master_port(given) == Told(7800, "MASTER_PORT")


def test_slurm_counts_in_a_job_step_only() -> None:
    place = place_in(SLURM)
    assert (place.rank, place.local_rank) == (Told(5, "SLURM_PROCID"), Told(1, "SLURM_LOCALID"))
    assert place.world_size == Told(8, "SLURM_NTASKS") and place.master is None
    batch = {key: value for key, value in SLURM.items() if key != "SLURM_STEP_ID"}
    assert place_in(batch) == Place()


def test_torchrun_within_slurm_knows_better() -> None:
    place = place_in({**SLURM, **TORCHRUN})
    assert (place.rank, place.local_rank) == (Told(11, "RANK"), Told(3, "LOCAL_RANK"))


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"RANK": "two"}, "RANK=two: expected a whole number"),
        ({"LOCAL_RANK": "-1"}, "LOCAL_RANK=-1"),
        ({"RANK": "4", "WORLD_SIZE": "4"}, "RANK=4 and WORLD_SIZE=4"),
        ({**SLURM, "SLURM_PROCID": "8"}, "SLURM_PROCID=8 and SLURM_NTASKS=8"),
        ({"MASTER_ADDR": "a", "MASTER_PORT": "x"}, "MASTER_PORT=x"),
    ],
)
def test_what_makes_no_sense_is_refused(environ: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        place_in(environ)
    assert words in str(refused.value)


def test_the_size_is_a_default_of_the_workers() -> None:
    loaded = load(None, (), {"WORLD_SIZE": "16"})
    assert (loaded.config.cluster.workers, loaded.origins["cluster.workers"]) == (16, "WORLD_SIZE")
    nearer = load(None, (), {"WORLD_SIZE": "16", "SPARSYNC_CLUSTER__WORKERS": "3"})
    assert (nearer.config.cluster.workers, nearer.origins["cluster.workers"]) == (
        3,
        "SPARSYNC_CLUSTER__WORKERS",
    )
    with pytest.raises(ConfigError, match="from WORLD_SIZE"):
        load(None, (), {"WORLD_SIZE": "0"})
