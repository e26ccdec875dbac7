"""Margins against their definitions, written out one cosine at a time in float64; gradients, limits and bad inputs."""

import math

import pytest
import torch
from torch.testing import assert_close

from face.losses.margins import AdaFace, ArcFace, CosFace

LABELS = torch.tensor([3, -1, 0, 2, 2])
NORMS = torch.tensor([12.0, 25.0, 1e-5, 400.0, 31.0], dtype=torch.float64)
MARGINS = [
    ArcFace(),
    ArcFace(margin_rad=0.2, scale=10),
    ArcFace(interclass_filtering_threshold=0.3),
    CosFace(),
    CosFace(margin=0.1, interclass_filtering_threshold=0.5),
    AdaFace(),
    AdaFace(margin=0.7, h=2.0, t_alpha=0.5, scale=5),
    AdaFace(interclass_filtering_threshold=0.3),
]


def cosines_of(rng, rows=5, classes=4):
    return torch.rand(rows, classes, generator=rng, dtype=torch.float64) * 1.8 - 0.9


def by_loop(margin, cosines, labels, norms, mean=20.0, std=100.0):
    """The definition, with AdaFace's statistics as they are given."""
    logits = torch.empty_like(cosines)
    for row, label in enumerate(labels.tolist()):
        for column, cosine in enumerate(cosines[row].tolist()):
            if column == label:
                angle = math.acos(cosine)
                if isinstance(margin, ArcFace):
                    cosine = math.cos(angle + margin.margin_rad)
                elif isinstance(margin, CosFace):
                    cosine -= margin.margin
                else:
                    norm = min(max(float(norms[row]), 0.001), 100.0)
                    g = min(max((norm - mean) / (std + 0.001) * margin.h, -1.0), 1.0)
                    cosine = math.cos(angle - margin.margin * g) - (margin.margin + margin.margin * g)
            elif 0 < margin.interclass_filtering_threshold < cosine:
                cosine = 0.0
            logits[row, column] = margin.scale * cosine
    return logits


@pytest.mark.parametrize("margin", MARGINS, ids=repr)
def test_equals_the_definition(margin, rng):
    cosines = cosines_of(rng)
    before = cosines.clone()
    assert_close(margin.eval()(cosines, LABELS, NORMS), by_loop(margin, cosines, LABELS, NORMS))
    assert torch.equal(cosines, before)


@pytest.mark.parametrize("margin", MARGINS, ids=repr)
def test_gradient(margin, rng):
    cosines = cosines_of(rng).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: margin.eval()(x, LABELS, NORMS), cosines)


def test_gradient_twice_over_the_same_graph(rng):
    cosines = cosines_of(rng).requires_grad_()
    logits = ArcFace(interclass_filtering_threshold=0.3)(cosines, LABELS, NORMS).sum()
    first, second = (torch.autograd.grad(logits, cosines, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_without_a_margin_logits_are_scaled_cosines(rng):
    cosines = cosines_of(rng)
    for margin in (ArcFace(margin_rad=0, scale=7), CosFace(margin=0, scale=7), AdaFace(margin=0, scale=7)):
        assert_close(margin(cosines, LABELS, NORMS), 7 * cosines)


def test_filtering_leaves_the_right_class_and_stops_gradients():
    cosines = torch.tensor([[0.9, 0.8, 0.2], [0.9, 0.1, 0.8]], requires_grad=True)
    logits = CosFace(margin=0.4, scale=10, interclass_filtering_threshold=0.5)(
        cosines, torch.tensor([0, -1]), torch.ones(2)
    )
    assert_close(logits, torch.tensor([[5.0, 0.0, 2.0], [0.0, 1.0, 0.0]]))
    logits.sum().backward()
    assert torch.equal(cosines.grad, torch.tensor([[10.0, 0.0, 10.0], [0.0, 10.0, 0.0]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ends_of_the_cosine_have_the_documented_gradient(dtype):
    """A rounding error beyond 1 counts as 1."""
    cosines = torch.tensor([[1.0], [-1.0], [1 + 1e-6], [-1 - 1e-6]], dtype=dtype, requires_grad=True)
    logits = ArcFace(margin_rad=0.5, scale=2)(cosines, torch.zeros(4, dtype=torch.int64), torch.ones(4))
    at_one, at_minus_one = 2 * math.cos(0.5), 2 * math.cos(math.pi + 0.5)
    assert_close(logits[:, 0], torch.tensor([at_one, at_minus_one] * 2, dtype=dtype))
    logits.sum().backward()
    slopes = [2 * (math.cos(0.5) + 1000 * math.sin(0.5)), 2 * (math.cos(0.5) - 1000 * math.sin(0.5))]
    assert_close(cosines.grad[:, 0], torch.tensor(slopes * 2, dtype=dtype))


def test_an_embedding_on_its_class_centre_has_a_bounded_gradient():
    """The steep cosine is that of a direction in which the cosine hardly changes."""
    centre = torch.tensor([3.0, 4.0, 12.0]) / 13
    for angle in (0.0, 1e-6, 1e-4, 1e-2):
        embedding = (centre + angle * torch.tensor([4.0, -3.0, 0.0]) / 5).requires_grad_()
        cosine = (embedding / embedding.norm()) @ centre
        ArcFace(margin_rad=0.5, scale=1)(cosine.view(1, 1), torch.zeros(1, dtype=torch.int64), torch.ones(1)).backward()
        assert embedding.grad.norm() < 1.0


@pytest.mark.parametrize("margin", [ArcFace(), CosFace(), AdaFace()], ids=repr)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(margin, dtype, rng):
    cosines = cosines_of(rng).to(dtype).requires_grad_()
    logits = margin.eval()(cosines, LABELS, NORMS.to(dtype))
    assert logits.dtype == torch.float32
    exact = by_loop(margin, cosines.detach().double(), LABELS, NORMS.to(dtype).double())
    assert_close(logits.double(), exact, rtol=1e-5, atol=1e-4)
    logits.sum().backward()
    assert cosines.grad.dtype == dtype


def test_adaface_statistics_follow_the_batches(rng):
    margin = AdaFace(t_alpha=0.3)
    mean, std = 20.0, 100.0
    for _ in range(3):
        norms = torch.rand(5, generator=rng, dtype=torch.float64) * 150
        kept = [min(max(norm, 0.001), 100.0) for norm in norms.tolist()]
        of_batch = sum(kept) / 5
        mean = 0.3 * of_batch + 0.7 * mean
        std = 0.3 * math.sqrt(sum((norm - of_batch) ** 2 for norm in kept) / 4) + 0.7 * std
        cosines = cosines_of(rng)
        logits = margin.train()(cosines, LABELS, norms)
        assert float(margin.norm_mean) == pytest.approx(mean, rel=1e-6)
        assert float(margin.norm_std) == pytest.approx(std, rel=1e-6)
        assert_close(logits, by_loop(margin, cosines, LABELS, norms, mean, std), rtol=1e-5, atol=1e-5)
        margin.eval()(cosines, LABELS, norms * 2)
        assert float(margin.norm_mean) == pytest.approx(mean, rel=1e-6)


def test_adaface_statistics_are_buffers():
    assert {name: float(value) for name, value in AdaFace().state_dict().items()} == {"norm_mean": 20, "norm_std": 100}


def test_one_row_moves_the_mean_only():
    margin = AdaFace(t_alpha=0.5)
    logits = margin(torch.zeros(1, 2), torch.tensor([1]), torch.tensor([40.0]))
    assert float(margin.norm_mean) == 30
    assert float(margin.norm_std) == 100
    assert logits.isfinite().all()
    margin(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), torch.zeros(0))
    assert float(margin.norm_mean) == 30


def test_not_a_number_does_not_stay_in_the_statistics():
    margin = AdaFace()
    norms = torch.tensor([10.0, float("nan")])
    logits = margin(torch.zeros(2, 2), torch.tensor([1, 0]), norms)
    assert logits[1, 0].isnan()
    assert float(margin.norm_mean) == 20
    assert float(margin.norm_std) == 100


def test_norms_get_no_gradient(rng):
    norms = NORMS.clone().requires_grad_()
    AdaFace()(cosines_of(rng).requires_grad_(), LABELS, norms).sum().backward()
    assert norms.grad is None


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ArcFace(margin_rad=28.6), r"margin_rad must be within \[0, pi / 2\) radians, got 28.6"),
        (lambda: CosFace(margin=-0.1), r"margin must be a cosine within \[0, 1\], got -0.1"),
        (lambda: AdaFace(margin=1.5), r"margin must be within \[0, 1\], radians and cosine, got 1.5"),
        (lambda: AdaFace(h=0), "h must be positive, got 0"),
        (lambda: AdaFace(t_alpha=0), r"t_alpha must be within \(0, 1\], got 0"),
        (lambda: ArcFace(scale=float("nan")), "scale must be positive, got nan"),
        (lambda: CosFace(interclass_filtering_threshold=1), r"threshold must be within \[0, 1\), 0 for none, got 1"),
    ],
)
def test_bad_settings(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("cosines", "labels", "norms", "message"),
    [
        (torch.zeros(2), torch.zeros(2).long(), torch.ones(2), r"cosines must have shape \[B, C\], got \[2\]"),
        (torch.zeros(2, 3), torch.zeros(2, 1).long(), torch.ones(2), r"labels must have shape \[B\].* got \[2, 1\]"),
        (torch.zeros(2, 3), torch.zeros(2).long(), torch.ones(3), r"norms must .* here \[2\] .* \[2, 3\], got \[3\]"),
        (torch.zeros(2, 3), torch.zeros(2).int(), torch.ones(2), r"labels must be int64, got torch.int32"),
        (torch.zeros(2, 3).long(), torch.zeros(2).long(), torch.ones(2), "cosines must be floating point, got torch.i"),
        (torch.zeros(2, 3), torch.zeros(2).long(), torch.ones(2).int(), "norms must be floating point, got torch.int"),
    ],
)
def test_bad_inputs(cosines, labels, norms, message):
    with pytest.raises(ValueError, match=message):
        CosFace()(cosines, labels, norms)
