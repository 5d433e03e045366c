"""`sparsync bench codec`: what its figures mean, and one small run of it on real pseudo-gradients."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sparsync.bench import cases, codec, frames, quantisers
from sparsync.bench.gradients import gaussian, real_updates, tiled
from sparsync.bench.memory import Memory
from sparsync.cli.bench import megabytes
from wire.codec.base import Blocks
from wire.codec.chain import push_codec
from wire.errors import ConfigError, UsageError
from wire.layout import BLOCK, BlockRange, Layout, Parameter


def measured(case: cases.Case, memory: Memory, *, blocks: int) -> dict[str, Any]:
    """What one round on Gaussian numbers finds."""
    plane = gaussian(blocks, seed=0)
    layout = Layout((Parameter("input", plane.shape, "float32", 0),))
    covered = Blocks.of(layout, [BlockRange(0, layout.blocks)])
    bench = codec.Bench(memory, memory.hold(plane), memory.zeros(*plane.shape), covered, 1)
    subject = codec.Subject(case, bench)
    subject.warm_up()
    subject.round()
    return subject.result({"memcpy": [1.0]})


# --- which codecs ------------------------------------------------------------------------------


def test_each_case_has_a_name_of_its_own_and_can_be_built() -> None:
    assert len({case.name for case in cases.CASES}) == len(cases.CASES)
    for case in cases.CASES:
        found = measured(case, Memory(None), blocks=1)
        assert found["codec"] == case.name and found["encode_gb_per_s"]["n"] == 1
        assert 0 <= found["relative_error"] < 1
    assert {*cases.QUICK, cases.HEADLINE} <= {case.name for case in cases.CASES}


def test_cases_are_chosen_by_pattern() -> None:
    assert cases.chosen((), device="cpu") == cases.CASES
    assert [c.name for c in cases.chosen(["dense-int8", "topk-64-*ef21"], device="cpu")] == [
        "topk-64-sign1-ef21",
        "dense-int8",
    ]
    with pytest.raises(
        UsageError, match=r"--codec topk-65\*: no such codec on cpu; expected one of topk-32-sign-ef, "
    ):
        cases.chosen(["dense-fp32", "topk-65*"], device="cpu")


@pytest.mark.parametrize("name", ["topk-64-sign1-ef", "dense-fp32"])
def test_tensors_are_measured_as_arrays_are(name: str) -> None:
    (case,) = cases.chosen([name], device="cpu")
    arrays, tensors = (
        measured(case, memory, blocks=3) for memory in (Memory(None), Memory(torch.device("cpu")))
    )
    assert tensors["sections"] == arrays["sections"]
    assert tensors["relative_error"] == pytest.approx(arrays["relative_error"])


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="--device meta9: not to be had here"):
        Memory.named("meta9")
    assert Memory.named("cpu").name


@pytest.mark.parametrize("text", ["", "x", "1,,2", "-3", "nan", "1e9"])
def test_sizes_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected megabytes"):
        megabytes(text)
    assert megabytes("13,128") == [13, 128]


# --- what is counted ---------------------------------------------------------------------------


@pytest.mark.parametrize(("form", "values", "feedback"), [("topk", "sign1", "ef"), ("dense", "fp32", "none")])
def test_the_sections_of_a_frame_add_up_to_it(form: str, values: str, feedback: str) -> None:
    plane = gaussian(700, seed=1)  # more than one part
    layout = Layout((Parameter("input", plane.shape, "float32", 0),))
    blocks = Blocks.of(layout, [BlockRange(0, layout.blocks)])
    made = push_codec(codec=form, density=1 / 64, values=values, feedback=feedback)
    state = {name: np.zeros_like(plane) for name in made.state_planes}
    frame = b"".join(made.encode(plane, state, blocks))
    sizes = frames.sections_of(frame)
    assert sum(sizes.values()) == len(frame)
    if form == "dense":
        assert sizes["codes"] == plane.nbytes and sizes["indices"] == 0
    else:
        assert sizes["signs"] == 700 * 64 // 8
        bits = frames.index_bits(sizes, kept=700 * 64)
        assert bits["index_bits_alone"] == 8 * sizes["indices"] / (700 * 64)
        assert 7.36 < bits["index_bits_alone"] < bits["bits_an_index"] < 7.8  # type: ignore[operator]
    assert frames.index_bits(sizes, kept=0) == {"index_bits_alone": None, "bits_an_index": None}


def test_ratios_are_taken_round_by_round() -> None:
    assert codec.ratios([1.0, 8.0], [2.0, 2.0]) == {"n": 2, "min": 0.5, "median": 2.25, "max": 4.0}


def test_the_relative_error_is_that_of_the_whole_plane() -> None:
    plane = gaussian(3, seed=2)
    assert codec.relative_error(plane, plane.copy()) == 0.0
    assert codec.relative_error(plane, np.zeros_like(plane)) == pytest.approx(1.0)
    assert codec.relative_error(plane, plane * np.float32(0.75)) == pytest.approx(0.25)


def test_a_plane_is_filled_with_all_the_blocks_there_are() -> None:
    planes = [np.full((3, BLOCK), value, np.float32) for value in (1, 2)]
    assert tiled(planes, 6)[:, 0].tolist() == [1, 1, 1, 2, 2, 2]
    assert tiled(planes, 8)[:, 0].tolist() == [1, 1, 1, 2, 2, 2, 1, 1]
    assert tiled(planes, 2)[:, 0].tolist() == [1, 2]
    assert tiled(planes, 2).flags.c_contiguous


# --- quantisers --------------------------------------------------------------------------------


def test_two_magnitudes_a_block_are_kept_exactly() -> None:
    values = np.array([[1.0, -4.0, 4.0, -1.0], [0.5, 0.5, -0.5, 0.5]])
    assert quantisers.sign_and_lloyd(values).tolist() == values.tolist()


def test_lloyd_levels_of_the_normal_distribution_have_the_known_error() -> None:
    values = np.random.default_rng(0).standard_normal((20, BLOCK))
    # Max (1960): four levels, symmetric, of the normal distribution leave 0.1175 of its variance.
    error = quantisers.relative_mse(values, quantisers.sign_and_lloyd(values))
    assert error == pytest.approx(0.1175, rel=0.02)


def test_uniform_bins_stand_for_the_mean_of_what_falls_into_them() -> None:
    values = np.random.default_rng(0).standard_normal(40_000)
    even, published = (quantisers.uniform_bins(values, even=kind) for kind in (True, False))
    assert np.unique(even).size == np.unique(published).size == 4
    assert even.mean() == pytest.approx(values.mean(), abs=1e-12)
    # Max (1960): no four levels leave less than 0.1175 of the variance; rounded bins waste one far out.
    errors = [quantisers.relative_mse(values, found) for found in (even, published)]
    assert 0.117 < errors[0] < errors[1] < 0.2
    assert quantisers.uniform_bins(np.ones(5), even=True).tolist() == [1.0] * 5


def test_a_residual_keeps_what_was_not_sent() -> None:
    first, second = np.zeros((1, BLOCK), np.float32), np.zeros((1, BLOCK), np.float32)
    first[0, :3] = (5, 4, 3)
    second[0, 7] = 2
    values = quantisers.kept_of_residual([first, second], kept=2)
    assert sorted(values[0].tolist()) == [2.0, pytest.approx(3 * quantisers.DECAY)]


def test_ours_is_compared_with_both_readings_of_the_published_one() -> None:
    draw = np.random.default_rng(3)
    rounds = [draw.standard_t(3, (40, BLOCK)).astype(np.float32) for _ in range(2)]
    found = quantisers.compare(rounds, (0, 10, 25), kept=64)
    assert found["ratio_to_even"] == found["sign_and_lloyd"] / found["uniform_even"]
    assert found["ratio_to_published"] < 1


# --- a run ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus: lines of random words."""
    draw, path = random.Random(1), tmp_path_factory.mktemp("corpus")
    words = ["read", "write", "open", "close", "return", "def", "if", "else"]
    for number in range(20):
        lines = (" ".join(draw.choices(words, k=10)) for _ in range(200))
        (path / f"file{number}.txt").write_text("\n".join(lines))
    return path


def test_updates_are_differences_of_the_model_and_gradients_its_gradients(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = {
        kind: real_updates(rounds=1, warm_up=0, inner_steps=1, kind=kind, seed=0, source=str(text))
        for kind in ("updates", "gradients")
    }
    (update,), (gradient,) = made["updates"].rounds, made["gradients"].rounds
    assert update.shape == gradient.shape == (792, BLOCK)
    assert made["updates"].first_blocks[0] == 0 and made["updates"].first_blocks[-1] < 792
    moved = np.abs(gradient) > 1e-6  # Adam's first step goes down the gradient, whatever its size
    assert (np.sign(update[moved]) == np.sign(gradient[moved])).mean() > 0.99


def test_a_quick_run_writes_what_it_prints(text: Path, tmp_path: Path, environ: dict[str, str]) -> None:
    options = ["--quick", "--json", "--data", str(text), "--out", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "sparsync", "bench", "codec", *options],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert json.loads((tmp_path / "out" / "codec.json").read_text()) == result
    assert "<svg" in (tmp_path / "out" / "codec.html").read_text()
    assert result["options"]["seed"] == 0 and result["about"]["versions"]["numba"]
    (size,) = result["sizes"]
    sparse, whole = size["codecs"]
    assert [sparse["codec"], whole["codec"]] == [*cases.QUICK]
    assert sparse["bits_a_parameter"] < 0.2 < 8 < whole["bits_a_parameter"] < 8.1
    assert sparse["relative_error"] < 1 and whole["relative_error"] < 0.1
    assert sparse["encode_gb_per_s"]["n"] == 2 and size["baselines"]["memcpy"]["median"] > 0
    assert result["quantisers"]["ratio_to_published"] < 1
