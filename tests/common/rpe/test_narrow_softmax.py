"""Softmax over narrow rows is softmax."""

import pytest
import torch
from torch.testing import assert_close

from common.rpe.narrow_softmax import narrow_softmax


@pytest.mark.parametrize("shape", [(1,), (3, 1), (2, 3, 15), (4, 15, 15)])
def test_values_and_gradients(shape, rng):
    logits = (5 * torch.randn(shape, generator=rng, dtype=torch.float64)).requires_grad_()
    upstream = torch.randn(shape, generator=rng, dtype=torch.float64)
    found, expected = narrow_softmax(logits), logits.softmax(-1)
    assert_close(found, expected)
    assert_close(*(torch.autograd.grad(out, logits, upstream)[0] for out in (found, expected)))


def test_derivatives(rng):
    logits = torch.randn(2, 3, 5, generator=rng, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(narrow_softmax, logits)
    assert torch.autograd.gradgradcheck(narrow_softmax, logits)
    mapped = torch.vmap(torch.func.grad(lambda x: narrow_softmax(x).square().sum()))(logits.detach())
    (expected,) = torch.autograd.grad(logits.softmax(-1).square().sum(), logits)
    assert_close(mapped, expected)


def test_masked_and_large_logits(rng):
    """Masks of shifted windows, infinite ones too, and logits beyond what exp can take."""
    logits = torch.randn(3, 15, 15, generator=rng)
    logits[0, :, 7:] += -100.0
    logits[1, :, 7:] = -torch.inf
    logits[2] += 1e4
    assert_close(narrow_softmax(logits), logits.softmax(-1))
    assert torch.equal(narrow_softmax(logits)[1, :, 7:], torch.zeros(15, 8))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype, rng):
    logits = torch.randn(4, 15, generator=rng).to(dtype)
    assert narrow_softmax(logits).dtype == dtype
    tolerance = 2 * torch.finfo(dtype).eps
    assert_close(narrow_softmax(logits).double(), logits.double().softmax(-1), rtol=0, atol=tolerance)
