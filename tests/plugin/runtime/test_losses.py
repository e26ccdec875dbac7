"""Losses against explicit loops, against OpenGait's own, and against its recorded numbers; values and gradients."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from plugin.runtime.losses import CrossEntropyLoss, LossAggregator, TripletLoss
from plugin.runtime.settings import CrossEntropyLossSettings, TripletLossSettings

LABELS = torch.tensor([3, 3, 5, 5, 9, 9])


def numbers(seed, *shape):
    """The same with every version of torch and numpy."""
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape).astype(np.float32))


def triplet_by_loops(embeddings, labels, margin):
    """The definition: for each part, the mean hinge over all triplets whose hinge is not zero."""
    count, _, parts = embeddings.shape
    losses, numbers_active, hardest = [], [], []
    for part in range(parts):
        hinges = []
        for anchor in range(count):
            for positive in range(count):
                for negative in range(count):
                    if labels[positive] == labels[anchor] != labels[negative]:
                        near = far = torch.zeros(())
                        if positive != anchor:
                            near = (embeddings[anchor, :, part] - embeddings[positive, :, part]).norm()
                        far = (embeddings[anchor, :, part] - embeddings[negative, :, part]).norm()
                        hinges.append(torch.clamp(near - far + margin, min=0))
        active = [hinge for hinge in hinges if hinge > 0]
        losses.append(sum(active) / len(active) if active else torch.zeros(()))
        numbers_active.append(float(len(active)))
        hardest.append(max(hinges))
    return torch.stack(losses), torch.tensor(numbers_active), torch.stack(hardest)


@pytest.mark.parametrize("margin", [0.2, 1.5])
@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5], [4, 0, 3, 5, 1, 2]])
def test_triplet_loss_equals_loops(margin, order):
    embeddings = numbers(0, 6, 4, 3).requires_grad_()
    labels = LABELS[order]
    loss, info = TripletLoss(margin)(embeddings, labels)
    expected, active, hardest = triplet_by_loops(embeddings, labels, margin)
    assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(info["loss_num"], active)
    assert_close(info["hard_loss"], hardest.detach(), rtol=1e-5, atol=1e-6)
    weights = torch.tensor([1.0, -2.0, 3.0])
    ours, theirs = (torch.autograd.grad(x @ weights, embeddings, retain_graph=True)[0] for x in (loss, expected))
    assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_triplet_mean_distance_is_over_all_pairs():
    embeddings = numbers(0, 6, 4, 2)
    info = TripletLoss()(embeddings, LABELS)[1]
    for part in range(2):
        pairs = [(embeddings[a, :, part] - embeddings[b, :, part]).norm() for a in range(6) for b in range(6) if a != b]
        assert_close(info["mean_dist"][part], sum(pairs) / 36, rtol=1e-5, atol=1e-4)


def test_satisfied_triplets_give_zero_and_no_gradient():
    embeddings = (torch.arange(3.0).repeat_interleave(2)[:, None, None] * 100 * torch.ones(6, 4, 2)).requires_grad_()
    loss, info = TripletLoss(0.2)(embeddings, LABELS)
    loss.mean().backward()
    assert torch.equal(loss, torch.zeros(2))
    assert torch.equal(info["loss_num"], torch.zeros(2))
    assert torch.equal(embeddings.grad, torch.zeros(6, 4, 2))


def test_equal_embeddings_have_a_finite_gradient():
    embeddings = torch.full((6, 4, 2), 0.3, requires_grad=True)
    loss = TripletLoss(0.2)(embeddings, LABELS)[0]
    loss.mean().backward()
    assert_close(loss, torch.full((2,), 0.2), rtol=0, atol=1e-3)
    assert embeddings.grad.isfinite().all()


@pytest.mark.parametrize("labels", [[3, 3, 5, 5, 5, 9], [3, 3, 3, 3, 3, 3], [1, 1, 1, 2, 2, 3]])
def test_unequal_counts_are_refused(labels):
    with pytest.raises(ValueError, match="several subjects with equally many sequences"):
        TripletLoss()(numbers(0, 6, 4, 3), torch.tensor(labels))


def test_half_precision_embeddings_are_compared_in_float32():
    embeddings = (numbers(0, 6, 4, 3) * 300).half()  # squares beyond what float16 holds
    loss = TripletLoss()(embeddings, LABELS)[0]
    assert loss.dtype == torch.float32
    assert_close(loss, triplet_by_loops(embeddings.float(), LABELS, 0.2)[0], rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize(("smooth", "eps", "scale"), [(True, 0.1, 16), (True, 0.3, 1.0), (False, 0.1, 16)])
def test_cross_entropy_equals_its_formula(smooth, eps, scale):
    logits, labels = numbers(0, 4, 5, 3).requires_grad_(), torch.tensor([0, 4, 2, 2])
    loss, _ = CrossEntropyLoss(scale, smooth, eps)(logits, labels)
    eps = eps if smooth else 0.0
    terms = []
    for sequence in range(4):
        for part in range(3):
            scaled = [scale * logits[sequence, c, part] for c in range(5)]
            total = torch.stack([x.exp() for x in scaled]).sum()
            for c in range(5):
                target = (1 - eps) * (c == labels[sequence]) + eps / 5
                terms.append(-target * (scaled[c] - total.log()))
    expected = sum(terms) / 12
    assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    assert_close(
        *(torch.autograd.grad(x, logits, retain_graph=True)[0] for x in (loss, expected)), rtol=1e-4, atol=1e-5
    )


def test_accuracy_is_the_share_of_right_parts():
    logits = torch.zeros(2, 3, 2)
    logits[0, 1], logits[1, 0, 0], logits[1, 2, 1] = 1, 1, 1
    assert CrossEntropyLoss(log_accuracy=True)(logits, torch.tensor([1, 2]))[1]["accuracy"] == 0.75
    assert "accuracy" not in CrossEntropyLoss()(logits, torch.tensor([1, 2]))[1]


def test_uniform_logits_cost_the_logarithm_of_the_classes():
    loss = CrossEntropyLoss()(torch.zeros(2, 7, 3), torch.tensor([0, 6]))[0]
    assert math.isclose(float(loss), math.log(7), rel_tol=1e-6)


SETTINGS = [
    TripletLossSettings(type="TripletLoss", log_prefix="triplet", loss_term_weight=2.0),
    CrossEntropyLossSettings(type="CrossEntropyLoss", log_prefix="softmax", loss_term_weight=0.5, log_accuracy=True),
]


def features():
    return {
        "triplet": {"embeddings": numbers(0, 6, 4, 3), "labels": LABELS},
        "softmax": {"logits": numbers(1, 6, 10, 3), "labels": LABELS},
    }


def test_aggregator_sums_by_weight_and_names_what_it_logs():
    total, summary = LossAggregator(SETTINGS)(features())
    triplet = TripletLoss()(**features()["triplet"])[0].mean()
    softmax = CrossEntropyLoss()(**features()["softmax"])[0]
    assert_close(total, 2 * triplet + 0.5 * softmax)
    assert set(summary) == {
        "scalar/triplet/loss",
        "scalar/triplet/hard_loss",
        "scalar/triplet/loss_num",
        "scalar/triplet/mean_dist",
        "scalar/softmax/loss",
        "scalar/softmax/accuracy",
        "scalar/loss",
    }
    assert_close(summary["scalar/loss"], total.detach())


def test_aggregator_refuses_a_feature_without_loss():
    with pytest.raises(ValueError, match=r"'centre'.*\['triplet', 'softmax'\]"):
        LossAggregator(SETTINGS)({**features(), "centre": {"embeddings": numbers(0, 6, 4, 3), "labels": LABELS}})


@pytest.mark.parametrize("margin", [0.2, 1.0])
def test_triplet_loss_equals_opengaits(opengait, margin):
    inputs = [numbers(0, 6, 4, 3).requires_grad_() for _ in range(2)]
    outs = [
        TripletLoss(margin)(embeddings=inputs[0], labels=LABELS),
        opengait.TripletLoss(margin)(embeddings=inputs[1], labels=LABELS),
    ]
    for loss, _ in outs:
        loss.mean().backward()
    assert_close(outs[0][0], outs[1][0])
    assert_close(dict(outs[0][1]), dict(outs[1][1]))
    assert_close(inputs[0].grad, inputs[1].grad)


@pytest.mark.parametrize("smooth", [True, False])
def test_cross_entropy_equals_opengaits(opengait, smooth):
    inputs = [numbers(1, 6, 10, 3).requires_grad_() for _ in range(2)]
    outs = [
        kind(label_smooth=smooth, log_accuracy=True)(logits, LABELS)
        for kind, logits in zip((CrossEntropyLoss, opengait.CrossEntropyLoss), inputs, strict=True)
    ]
    for loss, _ in outs:
        loss.backward()
    assert_close(outs[0][0], outs[1][0])
    assert_close(dict(outs[0][1]), dict(outs[1][1]))
    assert_close(inputs[0].grad, inputs[1].grad)


def test_losses_give_the_numbers_recorded_from_opengait():
    # OpenGait's losses at 0efafd4 with these inputs.
    embeddings, logits = numbers(0, 6, 4, 3).requires_grad_(), numbers(1, 6, 10, 3).requires_grad_()
    triplet = TripletLoss(0.2)(embeddings, LABELS)[0]
    softmax = CrossEntropyLoss()(logits, LABELS)[0]
    (triplet.mean() + softmax).backward()
    assert_close(triplet, torch.tensor(RECORDED_TRIPLET), rtol=0, atol=1e-5)
    assert_close(float(softmax.detach()), RECORDED_SOFTMAX, rtol=0, atol=1e-4)
    assert_close(embeddings.grad[0].flatten(), torch.tensor(RECORDED_EMBEDDINGS_GRADIENT), rtol=0, atol=1e-5)
    assert_close(logits.grad[5, :, 2], torch.tensor(RECORDED_LOGITS_GRADIENT), rtol=0, atol=1e-5)


RECORDED_TRIPLET = [0.346065, 1.729607, 0.912898]
RECORDED_SOFTMAX = 25.38932
RECORDED_EMBEDDINGS_GRADIENT = [
    0.049309,
    -0.034056,
    -0.045973,
    0.09376,
    -0.04315,
    -0.010555,
    0.031316,
    0.037905,
    0.082369,
    -0.011947,
    -0.028492,
    0.041026,
]
RECORDED_LOGITS_GRADIENT = [
    -0.000734,
    -0.008889,
    -0.008889,
    -0.008889,
    -0.008888,
    -0.008889,
    -0.008889,
    -0.008889,
    0.871844,
    -0.808889,
]
