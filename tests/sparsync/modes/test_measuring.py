"""How long a case may take."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sparsync.bench.modes.measuring import allowed_s
from sparsync.lm.model import GPT, parameter_count
from tests.sparsync.modes.curves import WORK, case


def test_a_slow_link_gives_a_dense_gradient_its_time() -> None:
    work = replace(WORK, layers=4, width=256, seq_len=128, steps=2000)
    gradient_s = 32 * parameter_count(GPT(4, 256, 4, context=128)) / 1e7
    assert allowed_s(case(work=work), 100.0) == 100.0
    allowed = allowed_s(case(link="10mbit", work=work), 100.0)
    assert allowed == pytest.approx(100.0 + 3 * 2000 * 2 * gradient_s, rel=0.02)
    assert allowed > 2 * 2000 * gradient_s, "two ranks send a gradient each a step"
    assert allowed_s(case(link="100mbit", work=work), 0.0) == pytest.approx((allowed - 100.0) / 10)
