"""Fits against Umeyama's method by singular values and NumPy's least squares, one set of points at a time."""

import numpy as np
import pytest
import torch

from common.geometry import fit_affine, fit_similarity
from common.keypoints import transform_keypoints

FITS = [fit_similarity, fit_affine]


def umeyama(source, target, weights):
    """Rotation, scale and shift by SVD as in the paper, weights as repeated points; NumPy float64, [L, 2]."""
    share = weights / weights.sum()
    source_mean, target_mean = share @ source, share @ target
    p, q = source - source_mean, target - target_mean
    covariance = sum(s * np.outer(b, a) for s, a, b in zip(share, p, q, strict=True))
    u, singular, v = np.linalg.svd(covariance)
    sign = np.diag([1.0, np.sign(np.linalg.det(u) * np.linalg.det(v))])
    rotation = u @ sign @ v
    scale = np.trace(np.diag(singular) @ sign) / sum(s * a @ a for s, a in zip(share, p, strict=True))
    matrix = np.eye(3)
    matrix[:2, :2] = scale * rotation
    matrix[:2, 2] = target_mean - scale * rotation @ source_mean
    return matrix


def affine_by_lstsq(source, target, weights):
    root = np.sqrt(weights)[:, None]
    rows = root * np.column_stack([source, np.ones(len(source))])
    solution = np.linalg.lstsq(rows, root * target, rcond=None)[0]
    return np.vstack([solution.T, [0.0, 0.0, 1.0]])


def a_similarity(angle=0.7, scale=1.7, shift=(3.0, -2.0)):
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    return torch.tensor([[cos, -sin, shift[0]], [sin, cos, shift[1]], [0.0, 0.0, 1.0]], dtype=torch.float64)


def points(rng, *shape):
    return torch.randn(*shape, 2, generator=rng, dtype=torch.float64)


@pytest.mark.parametrize(("fit", "oracle"), [(fit_similarity, umeyama), (fit_affine, affine_by_lstsq)])
@pytest.mark.parametrize("weighted", [False, True])
def test_matches_the_definition(fit, oracle, weighted, rng):
    source, target = points(rng, 2, 3, 5), points(rng, 2, 3, 5)
    weights = torch.rand(2, 3, 5, generator=rng, dtype=torch.float64) if weighted else None
    found = fit(source, target, weights)
    assert found.valid.all()
    given = torch.ones(2, 3, 5) if weights is None else weights
    for i in range(2):
        for j in range(3):
            expected = oracle(source[i, j].numpy(), target[i, j].numpy(), given[i, j].double().numpy())
            np.testing.assert_allclose(found.matrix[i, j].numpy(), expected, atol=1e-10)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_recovers_a_similarity_exactly(fit, dtype, tolerance, rng):
    matrix, source = a_similarity(), points(rng, 4, 5)
    found = fit(source.to(dtype), transform_keypoints(source, matrix).to(dtype))
    assert found.matrix.dtype == dtype
    assert found.valid.dtype == torch.bool
    torch.testing.assert_close(found.matrix.double(), matrix.expand(4, 3, 3), atol=tolerance, rtol=0)


def test_two_points_are_enough_for_a_similarity_and_three_for_an_affine_map(rng):
    source = points(rng, 3)
    shear = torch.tensor([[1.0, 0.6, 2.0], [-0.2, 0.8, 1.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(fit_affine(source, transform_keypoints(source, shear)).matrix, shear)
    two = source[:2]
    torch.testing.assert_close(fit_similarity(two, transform_keypoints(two, a_similarity())).matrix, a_similarity())
    assert not fit_affine(two, two).valid


def test_a_mirror_image_is_not_mirrored_back(rng):
    source = points(rng, 5)
    target = source * torch.tensor([-1.0, 1.0])
    found = fit_similarity(source, target)
    assert found.valid
    assert torch.linalg.det(found.matrix) > 0
    np.testing.assert_allclose(found.matrix, umeyama(source.numpy(), target.numpy(), np.ones(5)), atol=1e-10)
    assert torch.linalg.det(fit_affine(source, target).matrix) < 0


def test_a_mirrored_square_has_no_best_similarity():
    square = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    found = fit_similarity(square, square * torch.tensor([-1.0, 1.0]))
    assert not found.valid
    torch.testing.assert_close(found.matrix, torch.eye(3))


@pytest.mark.parametrize("fit", FITS)
def test_a_point_without_weight_has_no_say(fit, rng):
    source, target = points(rng, 6), points(rng, 6)
    weights = torch.tensor([1.0, 2.0, 0.0, 1.0, 0.5, 1.0], dtype=torch.float64)
    keep = weights > 0
    expected = fit(source[keep], target[keep], weights[keep]).matrix
    source[2] = float("nan")
    found = fit(source, target, weights)
    assert found.valid
    torch.testing.assert_close(found.matrix, expected)


@pytest.mark.parametrize("fit", FITS)
def test_one_target_and_one_row_of_weights_serve_a_batch(fit, rng):
    source, target = points(rng, 3, 5), points(rng, 5)
    weights = torch.rand(5, generator=rng, dtype=torch.float64)
    found = fit(source, target, weights).matrix
    each = torch.stack([fit(one, target, weights).matrix for one in source])
    torch.testing.assert_close(found, each)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda s, t, w: (s[:1].expand_as(s), t, w),
        lambda s, t, w: (s[:1].expand_as(s) + 1000.3, t, w),
        lambda s, t, w: (torch.zeros_like(s), t, w),
        lambda s, t, w: (torch.where(torch.arange(5)[:, None] == 1, float("nan"), s), t, w),
        lambda s, t, w: (s, torch.where(torch.arange(5)[:, None] == 1, float("inf"), t), w),
        lambda s, t, w: (s, t, torch.zeros_like(w)),
        lambda s, t, w: (s, t, -w),
        lambda s, t, w: (s, t, w * float("nan")),
        lambda s, t, w: (s, t, torch.full_like(w, 0.9 * torch.finfo(w.dtype).max)),
        lambda s, t, w: (s * torch.finfo(s.dtype).max ** 0.26, t, w),
        lambda s, t, w: (s, t * torch.finfo(s.dtype).max ** 0.5, w),
        lambda s, t, w: (s * torch.finfo(s.dtype).max ** 0.9, t, w),
    ],
    ids=[
        *("one point", "one point far away", "zeros", "nan", "inf"),
        *("no weight", "negative weights", "nan weights", "too much weight"),
        *("large", "a large target", "very large"),
    ],
)
def test_no_answer_is_the_identity_and_a_flag(fit, dtype, spoil, rng):
    source, target = points(rng, 5).to(dtype), points(rng, 5).to(dtype)
    bad = spoil(source, target, torch.ones(5, dtype=dtype))
    pairs = zip((source, target, torch.ones(5)), bad, strict=True)
    both = [torch.stack([good, wrong]).requires_grad_() for good, wrong in pairs]
    found = fit(*both)
    assert found.valid.tolist() == [True, False]
    torch.testing.assert_close(found.matrix[1], torch.eye(3, dtype=dtype))
    torch.testing.assert_close(found.matrix[0], fit(source, target).matrix)
    found.matrix.sum().backward()
    for tensor in both:
        assert tensor.grad.isfinite().all()
        assert not tensor.grad[1].any()
    assert both[0].grad[0].any()


def test_points_on_a_line_suit_a_similarity_but_no_affine_map(rng):
    along = torch.linspace(0, 1, 5)[:, None] * torch.tensor([3.0, 1.0]) + 7.0
    assert fit_similarity(along, points(rng, 5).float()).valid
    assert not fit_affine(along, points(rng, 5).float()).valid


def test_a_target_that_is_one_point_has_no_similarity(rng):
    source, target = points(rng, 5).float(), torch.full((5, 2), 1000.1)
    found = fit_similarity(source, target)
    assert not found.valid
    torch.testing.assert_close(found.matrix, torch.eye(3))


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_the_unit_does_not_matter(fit, size, rng):
    source, target = points(rng, 5).float(), points(rng, 5).float()
    found = fit(source * size, target * size)
    assert found.valid
    torch.testing.assert_close(found.matrix[:2, :2], fit(source, target).matrix[:2, :2], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_gradient_is_finite_however_large(fit, dtype, rng):
    """Past the size where there is an answer, up to the largest numbers."""
    exponents = torch.linspace(0, 0.99, 60, dtype=torch.float64)
    sizes = (torch.finfo(dtype).max ** exponents).to(dtype)[:, None, None]
    source, target = points(rng, 60, 5).to(dtype) / 4, points(rng, 60, 5).to(dtype) / 4
    for grown in ((source * sizes, target * sizes), (source * sizes, target), (source, target * sizes)):
        given = [*(one.requires_grad_() for one in grown), torch.ones(60, 5, dtype=dtype, requires_grad=True)]
        found = fit(*given)
        found.matrix[:, :2, :2].sum().backward()
        assert found.matrix.isfinite().all()
        assert found.valid[exponents < 0.24].all()
        assert not found.valid[exponents > 0.26].any()
        for tensor in given:
            assert tensor.grad.isfinite().all()
            assert not tensor.grad[~found.valid].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_gradient_is_finite_however_small(dtype, rng):
    exponents = torch.linspace(0, 0.99, 60, dtype=torch.float64)
    sizes = (torch.finfo(dtype).tiny ** exponents).to(dtype)[:, None, None]
    source, target = (points(rng, 60, 5).to(dtype) * sizes).requires_grad_(), 1000 * points(rng, 60, 5).to(dtype)
    found = fit_similarity(source, target)
    found.matrix[:, :2, :2].sum().backward()
    assert found.valid[exponents < 0.22].all()
    assert not found.valid[exponents > 0.28].any()
    assert source.grad.isfinite().all()
    assert not source.grad[~found.valid].any()


@pytest.mark.parametrize("fit", FITS)
def test_gradient(fit, rng):
    source, target = points(rng, 2, 4), points(rng, 2, 4)
    weights = 0.5 + torch.rand(2, 4, generator=rng, dtype=torch.float64)
    inputs = [tensor.requires_grad_() for tensor in (source, target, weights)]
    assert torch.autograd.gradcheck(lambda *given: fit(*given).matrix, inputs)


@pytest.mark.parametrize("fit", FITS)
def test_half_precision_is_computed_in_float32(fit, rng):
    source = (points(rng, 5) * 0.2 + 0.5).to(torch.bfloat16)
    target = (points(rng, 5) * 0.2 + 0.5).to(torch.bfloat16)
    found = fit(source, target)
    assert found.matrix.dtype == torch.bfloat16
    torch.testing.assert_close(found.matrix, fit(source.float(), target.float()).matrix.to(torch.bfloat16))


@pytest.mark.parametrize("fit", FITS)
def test_numpy_in_numpy_out(fit, rng):
    source, target = points(rng, 3, 5), points(rng, 3, 5)
    weights = torch.rand(3, 5, generator=rng, dtype=torch.float64)
    found = fit(source.numpy(), target.numpy(), weights.numpy())
    assert isinstance(found.matrix, np.ndarray)
    assert found.valid.dtype == np.bool_
    np.testing.assert_array_equal(found.matrix, fit(source, target, weights).matrix.numpy())


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize(
    ("source", "target", "weights", "message"),
    [
        (torch.zeros(5, 3), torch.zeros(5, 2), None, r"source must have shape \[\.\.\., L, 2\].*got \[5, 3\]"),
        (torch.zeros(5, 2), torch.zeros(2), None, r"target must have shape .*got \[2\]"),
        (torch.zeros(5, 2), torch.zeros(4, 2), None, r"as many points, got shapes \[5, 2\] and \[4, 2\]"),
        (
            torch.zeros(5, 2, dtype=torch.long),
            torch.zeros(5, 2),
            None,
            r"source must be floating point, got torch\.int",
        ),
        (torch.zeros(5, 2), torch.zeros(5, 2), torch.ones(4), r"weights must have shape .*L = 5, got \[4\]"),
    ],
)
def test_errors_name_what_they_got(fit, source, target, weights, message):
    with pytest.raises(ValueError, match=message):
        fit(source, target, weights)


def test_reversed_arrays():
    points = np.random.default_rng(0).random((4, 2))
    np.testing.assert_allclose(
        fit_similarity(points[::-1], points[::-1] * 2).matrix, fit_similarity(points, points * 2).matrix, atol=1e-12
    )
