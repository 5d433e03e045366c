"""Generation: deterministic with a seed, any length, modes put back."""

import pytest
import torch

from sparsync.lm.model import GPT
from sparsync.lm.sample import generate


@pytest.fixture
def model() -> GPT:
    torch.manual_seed(0)
    return GPT(1, 16, 2, context=8)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_seed_means_one_text_past_the_context(model: GPT) -> None:
    text = generate(model, b"def ", 20, 1.0, seeded(1))
    assert text.startswith(b"def ")
    assert len(text) == 24
    assert generate(model, b"def ", 20, 1.0, seeded(1)) == text
    assert generate(model, b"def ", 20, 1.0, seeded(2)) != text


def test_temperature_zero_takes_the_most_probable(model: GPT) -> None:
    greedy = generate(model, b"ab", 5, 0.0)
    assert greedy == generate(model, b"ab", 5, 0.0)
    assert greedy[2] == int(model(torch.tensor([[97, 98]]))[0, -1].argmax())


def test_global_random_state_and_mode_are_untouched(model: GPT) -> None:
    before = torch.get_rng_state()
    generate(model, b"x", 3, 1.0, seeded(0))
    assert torch.equal(before, torch.get_rng_state())
    assert model.training
    model.eval()
    generate(model, b"x", 3, 1.0, seeded(0))
    assert not model.training


def test_refuses_an_empty_prompt_and_a_negative_temperature(model: GPT) -> None:
    with pytest.raises(ValueError, match="prompt of 0 bytes"):
        generate(model, b"", 3)
    with pytest.raises(ValueError, match="temperature -1"):
        generate(model, b"x", 3, -1.0)
