"""symlog and symexp against hand-made values, their definition and each other."""

import math

import numpy as np
import pytest
import torch

from dreamer_lite.symlog import symexp, symlog

WIDE = torch.cat([-torch.logspace(-8, 8, 65).flip(0), torch.logspace(-8, 8, 65)])


@pytest.mark.parametrize(
    "x, y",
    [(0, 0), (math.e - 1, 1), (9, 2.302585), (-99, -4.605170), (999, 6.907755)],
)
def test_values_by_hand(x, y):
    assert symlog(x).item() == pytest.approx(y, rel=1e-6)
    assert symexp(y).item() == pytest.approx(x, rel=1e-5)


def test_the_definition_in_double_precision():
    x = WIDE.double().numpy()
    truth = np.sign(x) * np.log1p(np.abs(x))
    np.testing.assert_allclose(symlog(WIDE).numpy(), truth, rtol=1e-6)
    y = np.linspace(-20, 20, 101)
    truth = np.sign(y) * np.expm1(np.abs(y))
    np.testing.assert_allclose(symexp(y).numpy(), truth, rtol=1e-5)


def test_odd_to_the_last_bit_and_exactly_zero_at_zero():
    assert torch.equal(symlog(-WIDE), -symlog(WIDE))
    assert torch.equal(symexp(-WIDE[40:90]), -symexp(WIDE[40:90]))
    assert symlog(0.0) == 0 and symexp(0.0) == 0


def test_tiny_numbers_pass_unchanged():
    tiny = torch.tensor([1e-9, -1e-12])
    torch.testing.assert_close(symlog(tiny), tiny, rtol=1e-5, atol=0)
    torch.testing.assert_close(symexp(tiny), tiny, rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_computes_in_float32_whatever_comes_in(dtype):
    x = torch.tensor([[-2.0, 0.5], [0.0, 100.0]], dtype=dtype)
    for function in (symlog, symexp):
        assert function(x).dtype == torch.float32
        assert torch.equal(function(x), function(x.float()))
