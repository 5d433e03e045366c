"""The GPT: size, ties, initial values, causality, refusals."""

import math

import pytest
import torch

from sparsync.lm.model import GPT, parameter_count


def small(seed: int = 0, **options: float) -> GPT:
    torch.manual_seed(seed)
    return GPT(layers=2, width=32, heads=4, context=16, **options)


def test_default_size_is_about_3_million_and_the_head_is_tied() -> None:
    model = GPT(layers=4, width=256, heads=4, context=128)
    assert parameter_count(model) == 3_257_856
    assert model.head.weight is model.tokens.weight
    assert "head.weight" not in dict(model.named_parameters())


def test_initial_values_are_a_function_of_the_seed() -> None:
    first, again, other = small(1), small(1), small(2)
    same = zip(first.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in same)
    assert not torch.equal(first.tokens.weight, other.tokens.weight)


def test_initial_loss_is_that_of_a_uniform_guess() -> None:
    idx = torch.randint(0, 256, (4, 16), generator=torch.Generator().manual_seed(0))
    logits, loss = small()(idx, idx.roll(-1, 1))
    assert logits.shape == (4, 16, 256)
    assert loss.item() == pytest.approx(math.log(256), abs=0.1)
    assert torch.equal(small()(idx), logits)


def test_a_position_sees_nothing_after_itself() -> None:
    model = small()
    idx = torch.arange(16)[None]
    changed = idx.clone()
    changed[0, 9:] += 100
    before, after = model(idx), model(changed)
    torch.testing.assert_close(before[:, :9], after[:, :9])
    assert not torch.allclose(before[:, 9:], after[:, 9:])


def test_every_parameter_takes_part() -> None:
    model = small()
    idx = torch.arange(16)[None]
    model(idx, idx)[1].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_dropout_acts_in_training_only() -> None:
    model = small(dropout=0.5)
    idx = torch.arange(16)[None]
    assert not torch.equal(model(idx), model(idx))
    model.eval()
    assert torch.equal(model(idx), model(idx))


def test_learns_a_constant_sequence() -> None:
    model = small()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    idx = torch.full((2, 16), 65)
    for _ in range(20):
        optimizer.zero_grad()
        loss = model(idx, idx)[1]
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1


def test_refuses_uneven_heads_and_too_long_input() -> None:
    with pytest.raises(ValueError, match=r"model\.width = 30 is no multiple of model\.heads = 4"):
        GPT(layers=1, width=30, heads=4, context=8)
    with pytest.raises(ValueError, match="17 tokens, but the context is 16"):
        small()(torch.zeros(1, 17, dtype=torch.int64))
