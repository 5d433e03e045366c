"""What a process of a case writes while it trains."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from sparsync.bench.modes.recorder import Copies, Pace, Recorder, by_way, loads, parameters
from sparsync.bench.modes.stragglers import pattern
from wire.rpc.meter import SocketMeter


def test_copies_are_made_by_steps_of_the_run_and_never_replace_one(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    copies = Copies(tmp_path, worker=1, steps=40, count=4)
    made = []
    for step in [*range(14), 14, 14, *range(17, 40)]:  # as units of one worker come
        if copies.due(step):
            with torch.no_grad():
                model.weight.fill_(float(step))
            made.append((step, copies.keep(parameters(model), step)["copy"]))
    assert made == [(0, 100_000), (10, 100_001), (20, 100_002), (30, 100_003)]
    later = Copies(tmp_path, worker=1, steps=40, count=4)  # the same worker, started again
    assert later.keep(parameters(model), 5)["copy"] == 100_004
    kept = load_file(tmp_path / "copy-100002.safetensors")
    assert set(kept) == {"weight", "bias"} and kept["weight"][0, 0] == 20.0


def test_every_socket_is_counted_somewhere() -> None:
    pools = {"data": (5, 7), "state": (100, 20), "control": (3, 4)}
    assert by_way(pools) == {"up": 5, "down": 7, "state": 120, "control": 7}
    assert by_way({}) == {"up": 0, "down": 0, "state": 0, "control": 0}


def test_time_goes_to_what_it_was_spent_on(tmp_path: Path) -> None:
    pace = Pace(pattern("slow:3"), worker=0, seed=0, unit_s=0.02)
    recorder = Recorder(tmp_path, pace, SocketMeter())
    for number in range(3):
        recorder.begin()
        recorder.sleep()
        recorder.computed(waited_s=0.0)
        recorder.sent(7, pushed=number != 2)
    recorder.close()
    first, *_, last = loads((tmp_path / "worker-0.jsonl").read_text())
    assert (first["units"], last["units"], last["tokens"], last["tokens_pushed"]) == (0, 3, 21, 14)
    spent = {key: value for key, value in last.items() if key.endswith("_s")}
    assert sum(spent.values()) == pytest.approx(last["at"] - first["at"], abs=0.01)
    assert spent["slept_s"] >= 3 * 0.04


def test_units_of_one_batch_are_as_slow_as_one_by_one(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, Pace(pattern("slow:3"), worker=0, seed=0, unit_s=0.02), SocketMeter())
    recorder.begin()
    recorder.sleep(units=2)
    recorder.computed()
    recorder.sent(14, units=2)
    recorder.close()
    last = loads((tmp_path / "worker-0.jsonl").read_text())[-1]
    assert (last["units"], last["tokens"]) == (2, 14) and last["slept_s"] >= 2 * 0.04


def test_lines_that_are_torn_are_left_out() -> None:
    assert loads('{"a": 1}\n{"torn"') == [{"a": 1}]
