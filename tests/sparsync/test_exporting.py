"""Exported models: what torch and safetensors read is what the servers held; nothing damaged ever gets out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from sparsync.cli import run
from wire.checkpoint import CheckpointWriter
from worker.state import dump


class Net(torch.nn.Module):
    """Parameters of three dtypes, one frozen; buffers of two."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first = torch.nn.Linear(5, 3)
        self.norm = torch.nn.BatchNorm1d(3)
        self.rough = torch.nn.Parameter(torch.randn(2, 300_000).to(torch.bfloat16))
        self.small = torch.nn.Parameter(torch.randn(4).to(torch.float16), requires_grad=False)
        self.norm.running_mean += 0.5  # type: ignore[operator]


@pytest.fixture
def net() -> Net:
    return Net()


def write(out: Path, step: int, net: Net, *, shift: float = 0.0) -> Path:
    """A checkpoint as the coordinator writes it; x̂ is x + 1."""
    writer = CheckpointWriter(out / "checkpoints", step)
    parameters = {name: p.detach().float() + shift for name, p in net.named_parameters()}
    for file, more in (("model.safetensors", 0.0), ("published.safetensors", 1.0)):
        tensors = [(name, "F32", tuple(p.shape)) for name, p in parameters.items()]
        part = writer.file(file, tensors, {})
        part.write(0, b"".join((p + more).numpy().tobytes() for p in parameters.values()))
        part.close()
    extra = writer.blob("stream-0.extra")
    extra.write(dump({"buffers": dict(net.named_buffers()), "state": {}}))
    extra.close()
    layout = [[n, list(p.shape), str(p.dtype).removeprefix("torch."), 0] for n, p in net.named_parameters()]
    return writer.commit({"run": "r1", "timeline": 1, "config_digest": "", "layout": layout})


def damage(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)


def exported(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert run(["export", *words, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_the_model_loads_as_it_was(net: Net, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "run", 7, net)
    found = exported(capsys, str(tmp_path / "run"), "--out", str(tmp_path / "out"))
    assert (found["step"], found["model"], found["tensors"], found["buffers"]) == (7, "x", 6, 3)
    other = Net()
    for parameter in other.parameters():
        parameter.data.zero_()
    other.norm.running_mean.zero_()  # type: ignore[union-attr, operator]
    other.load_state_dict(load_file(tmp_path / "out" / "model.safetensors"), strict=True)
    for name, tensor in net.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name
        assert other.state_dict()[name].dtype == tensor.dtype


def test_the_header_says_where_it_is_from(
    net: Net, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "run", 7, net)
    exported(capsys, str(tmp_path / "run"), "--published", "--out", str(tmp_path / "out"))
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", "run": "r1", "step": "7", "model": "published"}
        assert torch.equal(file.get_tensor("first.bias"), net.first.bias.detach() + 1.0)


def test_float32_is_what_the_servers_hold(
    net: Net, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "run", 7, net, shift=1e-3)
    exported(capsys, str(tmp_path / "run"), "--float32", "--out", str(tmp_path / "out"))
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(tensors["rough"], net.rough.detach().float() + 1e-3)
    exported(capsys, str(tmp_path / "run"), "--out", str(tmp_path / "as_it_was"))
    tensors = load_file(tmp_path / "as_it_was" / "model.safetensors")
    assert torch.equal(tensors["rough"], (net.rough.detach().float() + 1e-3).to(torch.bfloat16))


def test_several_files_with_an_index(net: Net, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "run", 7, net)
    exported(capsys, str(tmp_path / "run"), "--out", str(tmp_path / "one"))
    found = exported(capsys, str(tmp_path / "run"), "--split", "100", "--out", str(tmp_path / "out"))
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == found["bytes"]
    assert set(index["weight_map"].values()) == set(found["files"]) and len(found["files"]) > 2
    whole: dict[str, torch.Tensor] = {}
    for name in found["files"]:
        whole |= load_file(tmp_path / "out" / name)
    one = load_file(tmp_path / "one" / "model.safetensors")
    assert {n: index["weight_map"][n] for n in whole} == index["weight_map"]
    assert whole.keys() == one.keys() and all(torch.equal(whole[n], one[n]) for n in one)


def test_the_newest_good_one_is_taken(net: Net, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "run", 7, net)
    newest = write(tmp_path / "run", 9, net, shift=1.0)
    damage(newest / "published.safetensors")
    assert run(["export", str(tmp_path / "run"), "--json", "--out", str(tmp_path / "out")]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["step"] == 7 and f"checkpoint {newest} is passed over" in err


@pytest.mark.parametrize("words", [("run", "--step", "9"), ("run/checkpoints/step-9",)])
def test_a_damaged_one_that_is_named_is_refused(
    words: tuple[str, ...],
    net: Net,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "run", 7, net)
    damage(write(tmp_path / "run", 9, net) / "model.safetensors")
    assert run(["export", *words, "--out", "out"]) == 74
    assert "tensor 'norm.bias'" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_what_is_not_there(net: Net, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "run", 7, net)
    assert run(["export", str(tmp_path / "run"), "--step", "8"]) == 66
    assert "there are: 7" in capsys.readouterr().err
    assert run(["export", str(tmp_path)]) == 66
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model.safetensors").write_text("mine")
    assert run(["export", str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 64
    assert (tmp_path / "out" / "model.safetensors").read_text() == "mine"
