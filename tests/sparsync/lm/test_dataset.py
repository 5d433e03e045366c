"""Token windows: contents, digest, travel to a loader's process, validation subset."""

import copy
import json
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from sparsync.lm.corpus import prepare
from sparsync.lm.dataset import TokenDataset, validation_batches, validation_loss
from sparsync.lm.model import GPT
from wire.errors import DataRefused, NoInput


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    """100 tokens, 1 to 100, without a manifest."""
    path = tmp_path / "tokens.bin"
    path.write_bytes(bytes(range(1, 101)))
    return path


def test_windows_do_not_overlap_and_targets_are_one_ahead(tokens: Path) -> None:
    dataset = TokenDataset(tokens, seq_len=9)
    assert len(dataset) == 10
    x, y = dataset[3]
    assert x.dtype == y.dtype == torch.int64
    assert x.tolist() == list(range(31, 40))
    assert y.tolist() == list(range(32, 41))
    assert [int(x[0]) for x, _ in dataset] == list(range(1, 101, 10))
    with pytest.raises(IndexError, match="window 10 of 10"):
        dataset[10]


def test_windows_can_be_limited(tokens: Path) -> None:
    assert len(TokenDataset(tokens, seq_len=9, windows=3)) == 3
    assert len(TokenDataset(tokens, seq_len=9, windows=30)) == 10


def test_the_digest_is_the_manifest_s_or_the_file_s(tokens: Path) -> None:
    prepared = prepare(str(tokens), tokens.parent / "cache")
    assert TokenDataset(prepared.train, 4).digest == TokenDataset(prepared.val, 4).digest == prepared.digest
    bare = TokenDataset(tokens, 4).digest
    assert len(bare) == 64
    tokens.write_bytes(bytes(range(2, 102)))
    assert TokenDataset(tokens, 4).digest != bare


def test_the_manifest_tells_the_element_type(tmp_path: Path) -> None:
    (tmp_path / "wide.bin").write_bytes(b"".join(n.to_bytes(2, "little") for n in (300, 301, 302)))
    (tmp_path / "meta.json").write_text(json.dumps({"digest": "d", "dtype": "uint16"}))
    assert TokenDataset(tmp_path / "wide.bin", 2)[0][0].tolist() == [300, 301]


def test_it_travels_to_another_process_as_a_path(tokens: Path) -> None:
    dataset = TokenDataset(tokens, 9, windows=4)
    rebuild, arguments = dataset.__reduce__()
    assert rebuild(*arguments)[2][0].tolist() == dataset[2][0].tolist()
    assert len(copy.copy(dataset)) == 4


def test_a_spawned_loader_reads_the_same(tokens: Path) -> None:
    dataset = TokenDataset(tokens, 9)
    loader = DataLoader(dataset, batch_size=5, num_workers=1, multiprocessing_context="spawn")
    assert [x.tolist() for x, _ in loader] == [x.tolist() for x, _ in DataLoader(dataset, batch_size=5)]


def test_validation_windows_are_spread_evenly_and_fixed(tokens: Path) -> None:
    batches = validation_batches(tokens, seq_len=9, windows=5, batch_size=2)
    assert [len(x) for x, _ in batches] == [2, 2, 1]
    assert [int(v) for x, _ in batches for v in x[:, 0]] == [1, 21, 41, 61, 81]
    assert len(validation_batches(tokens, seq_len=9, windows=1000)) == 1


def test_validation_loss_weighs_by_tokens(tokens: Path) -> None:
    torch.manual_seed(0)
    model = GPT(1, 16, 2, context=9)
    even = validation_loss(model, validation_batches(tokens, 9, windows=6, batch_size=6))
    uneven = validation_loss(model, validation_batches(tokens, 9, windows=6, batch_size=4))
    assert uneven == pytest.approx(even, rel=1e-5)
    assert model.training
    assert all(p.grad is None for p in model.parameters())


def test_too_little_and_nothing_are_refused(tokens: Path) -> None:
    with pytest.raises(DataRefused, match=r"100 tokens; one window takes data\.seq_len \+ 1 = 101"):
        TokenDataset(tokens, seq_len=100)
    with pytest.raises(NoInput, match="no token file"):
        TokenDataset(tokens.with_name("absent.bin"), seq_len=4)
