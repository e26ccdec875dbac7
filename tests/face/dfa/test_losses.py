"""The loss against its definition as a loop, against the authors' numbers, and on batches that lack something.

The stored numbers are theirs, written by tests/parity/dfa_losses.py; with CVLFACE_ROOT set their checkout is run too.
"""

import importlib.util
import math
import os
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from face.dfa.anchors import make_anchors
from face.dfa.losses import DFALoss, DFALossSettings, anchor_overlaps
from face.dfa.network import DFAOutput

ROOT = os.environ.get("CVLFACE_ROOT")
ANCHORS = make_anchors((160, 160))
SMALL = torch.tensor([[0.3, 0.3, 0.5, 0.4], [0.5, 0.5, 0.6, 0.6], [0.7, 0.6, 0.4, 0.5], [0.2, 0.8, 0.3, 0.3]])
UNWEIGHTED = DFALossSettings(box_weight=1.0)


def _harness():
    path = Path(__file__).parents[2] / "parity" / "dfa_losses.py"
    spec = importlib.util.spec_from_file_location("parity_dfa_losses", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


parity = _harness()


@pytest.fixture(scope="module")
def stored():
    return parity.stored()


def make_output(given, aggregated=True):
    merged = given.aggregated
    parts = (merged[:, :4], merged[:, 4:6], merged[:, 6:].unflatten(1, (5, 2))) if aggregated else (None, None, None)
    return DFAOutput(given.box_offsets, given.logits, given.landmark_offsets, *parts, None)


def draw(rng, kinds, anchors=SMALL, dtype=torch.float32):
    """Predictions and a face at the middle of each image; landmarks of kind 1 alone, NaN elsewhere."""
    batch, count = len(kinds), len(anchors)
    shapes = {"box_offsets": (count, 4), "logits": (count, 2), "landmark_offsets": (count, 10), "aggregated": (16,)}
    drawn = {name: torch.randn(batch, *shape, generator=rng, dtype=dtype) for name, shape in shapes.items()}
    half = 0.2 + 0.15 * torch.rand(batch, 2, generator=rng)
    kinds = torch.tensor(kinds)
    boxes = torch.cat([0.5 - half, 0.5 + half], 1)
    boxes[kinds == 0] = math.nan
    landmarks = torch.rand(batch, 5, 2, generator=rng)
    landmarks[kinds < 1] = math.nan
    return parity.Inputs(**drawn, boxes=boxes, landmarks=landmarks, kinds=kinds)


def compute(given, settings=UNWEIGHTED, anchors=SMALL, aggregated=True):
    return DFALoss(settings)(make_output(given, aggregated), anchors, given.boxes, given.landmarks, given.kinds)


def smooth_l1(a, b):
    distance = abs(a - b)
    return distance**2 / 2 if distance < 1 else distance - 0.5


def overlap_by_loop(anchor, box):
    (cx, cy, w, h), (left, top, right, bottom) = anchor.tolist(), box.tolist()
    wide = max(0.0, min(cx + w / 2, right) - max(cx - w / 2, left))
    high = max(0.0, min(cy + h / 2, bottom) - max(cy - h / 2, top))
    return wide * high / (w * h + (right - left) * (bottom - top) - wide * high)


def definition(given, settings, anchors):
    """The six terms, image by image and anchor by anchor."""
    box, face, points, positives, annotated = 0.0, 0.0, 0.0, 0, 0
    merged = {"box": [], "face": [], "points": []}
    for image, kind in enumerate(given.kinds.tolist()):
        truth, marks = given.boxes[image].tolist(), given.landmarks[image].flatten().tolist()
        entropies = -given.logits[image].double().log_softmax(-1)
        chosen = []
        if kind:
            overlaps = [overlap_by_loop(anchor, given.boxes[image]) for anchor in anchors]
            best = max(range(len(overlaps)), key=overlaps.__getitem__)
            if overlaps[best] >= settings.least_overlap:
                chosen = [i for i, value in enumerate(overlaps) if value >= settings.positive_overlap or i == best]
        for i in chosen:
            cx, cy, w, h = anchors[i].tolist()
            left, top, right, bottom = truth
            offsets = [
                ((left + right) / 2 - cx) / (0.1 * w),
                ((top + bottom) / 2 - cy) / (0.1 * h),
                math.log((right - left) / w) / 0.2,
                math.log((bottom - top) / h) / 0.2,
            ]
            box += sum(map(smooth_l1, given.box_offsets[image, i].tolist(), offsets))
            face += entropies[i, 1].item()
            positives += 1
            if kind == 1:
                annotated += 1
                offsets = [(marks[k] - (cx, cy)[k % 2]) / (0.1 * (w, h)[k % 2]) for k in range(10)]
                points += sum(map(smooth_l1, given.landmark_offsets[image, i].tolist(), offsets))
        others = sorted((entropies[i, 0].item() for i in range(len(anchors)) if i not in chosen), reverse=True)
        face += sum(others[: settings.negatives_per_positive * len(chosen)])
        values = given.aggregated[image].double()
        entropy = -values[4:6].log_softmax(0)
        score = 1.0 if kind == 1 else settings.unannotated_face_score if kind == -1 else 0.0
        merged["face"].append((score * entropy[1] + (1 - score) * entropy[0]).item())
        if kind:
            merged["box"].append(sum(map(smooth_l1, values[:4].tolist(), truth)))
        if kind == 1:
            merged["points"].append(sum(map(smooth_l1, values[6:].tolist(), marks)))
    means = [sum(merged[name]) / max(len(merged[name]), 1) for name in ("box", "face", "points")]
    return [box / max(positives, 1), face / max(positives, 1), points / max(annotated, 1), *means]


@pytest.mark.parametrize(
    "settings",
    [
        UNWEIGHTED,
        DFALossSettings(positive_overlap=0.5, least_overlap=0.45, negatives_per_positive=1, unannotated_face_score=0.3),
        DFALossSettings(positive_overlap=0.2, least_overlap=0.1, negatives_per_positive=0, unannotated_face_score=1),
    ],
)
@pytest.mark.parametrize("kinds", [(1, -1, 0, 1, 1, -1), (1,), (-1, -1), (0,)])
def test_the_definition_as_a_loop(rng, kinds, settings):
    given = draw(rng, kinds)
    terms = compute(given, settings)
    assert_close(torch.stack(terms[:6]), torch.tensor(definition(given, settings, SMALL)), rtol=1e-5, atol=1e-6)


def test_overlaps_are_intersection_over_union(rng):
    boxes = torch.tensor([[0.1, 0.2, 0.6, 0.5], [0.5, 0.5, 0.51, 0.9], [0.9, 0.9, 1.0, 1.0], [0.2, 0.2, 0.8, 0.8]])
    found = anchor_overlaps(SMALL, boxes)
    assert_close(found, torch.tensor([[overlap_by_loop(anchor, box) for anchor in SMALL] for box in boxes]))
    assert found[3, 1] == pytest.approx(1)
    assert found[2, 0] == 0


@pytest.mark.parametrize("case", parity.CASES, ids=lambda case: case.name)
def test_terms_and_gradients_are_the_authors(case, stored):
    given = parity.inputs(case)
    leaves = {name: getattr(given, name).clone().requires_grad_() for name in parity.PREDICTED}
    given = given._replace(**leaves)
    settings = DFALossSettings(box_weight=1.0, negatives_per_positive=case.negatives)
    terms = compute(given, settings, ANCHORS, case.aggregated)
    expected = stored[f"{case.name}/terms"].nan_to_num(0)  # theirs divide by the number of none
    assert_close(torch.stack(terms[:6]).detach(), expected, rtol=1e-5, atol=1e-5)
    assert_close(terms.total.detach(), expected.sum(), rtol=1e-5, atol=1e-5)
    terms.total.backward()
    for name, leaf in leaves.items():
        if f"{case.name}/{name}" in stored:
            theirs = stored[f"{case.name}/{name}"]
            assert_close(leaf.grad.abs().flatten(1).sum(1), theirs, rtol=1e-5, atol=1e-5, msg=lambda t, n=name: n + t)
        else:
            assert name == "aggregated"
            assert leaf.grad is None


@pytest.mark.skipif(ROOT is None, reason="CVLFACE_ROOT does not name a checkout")
def test_stored_numbers_are_the_checkouts(stored):
    found = parity.outcomes(Path(ROOT))
    assert found.keys() == stored.keys()
    for name, value in found.items():
        assert_close(value, stored[name], rtol=1e-5, atol=1e-5, equal_nan=True, msg=lambda t, n=name: f"{n}: {t}")


@pytest.mark.parametrize("kinds", [(0, 0), (-1, 0), (-1, -1), (1, 0)])
def test_what_is_unknown_reaches_neither_loss_nor_gradient(rng, kinds):
    """And every prediction has a gradient, as DistributedDataParallel wants it."""
    given = draw(rng, kinds)
    leaves = {name: getattr(given, name).requires_grad_() for name in parity.PREDICTED}
    terms = compute(given._replace(**leaves))
    assert torch.stack(terms).isfinite().all()
    terms.total.backward()
    for name, leaf in leaves.items():
        assert leaf.grad.isfinite().all(), name
    if 1 not in kinds:
        assert terms.landmarks == terms.aggregated_landmarks == 0
        assert (leaves["landmark_offsets"].grad == 0).all()
        assert (leaves["aggregated"].grad[:, 6:] == 0).all()
    if set(kinds) == {0}:
        assert (leaves["logits"].grad == 0).all()
        assert (leaves["aggregated"].grad[:, 4:6] != 0).all()


def test_total_weights_the_terms(rng):
    given = draw(rng, (1, -1, 0))
    weights = dict(zip((f"{name}_weight" for name in ("box", "face", "landmark")), (2.0, 0.5, 3.0), strict=True))
    weights |= {"aggregated_box_weight": 0.25, "aggregated_face_weight": 0.0, "aggregated_landmark_weight": 7.0}
    terms = compute(given, DFALossSettings(**weights))
    assert_close(terms.total, sum(weight * term for weight, term in zip(weights.values(), terms[:6], strict=True)))
    plain = compute(given)
    assert_close(torch.stack(terms[:6]), torch.stack(plain[:6]))


def test_a_perfect_prediction_costs_nothing():
    """At the only positive anchor; what the others say of boxes and landmarks does not count."""
    boxes = torch.tensor([[0.2, 0.2, 0.8, 0.8]])
    landmarks = torch.tensor([[[0.35, 0.4], [0.65, 0.4], [0.5, 0.5], [0.4, 0.65], [0.6, 0.65]]])
    offsets = torch.full((1, 4, 4), 1e3)
    offsets[0, 1] = 0
    points = torch.full((1, 4, 10), -1e3)
    points[0, 1] = ((landmarks[0] - 0.5) / 0.06).flatten()
    logits = torch.tensor([[[50.0, -50.0], [-50.0, 50.0], [50.0, -50.0], [50.0, -50.0]]])
    output = DFAOutput(offsets, logits, points, boxes, torch.tensor([[-50.0, 50.0]]), landmarks, None)
    settings = DFALossSettings(positive_overlap=0.9)
    terms = DFALoss(settings)(output, SMALL, boxes, landmarks, torch.tensor([1]))
    assert_close(torch.stack(terms), torch.zeros(7), atol=1e-8, rtol=0)


def test_gradcheck(rng):
    given = draw(rng, (1, -1, 0), dtype=torch.float64)

    def total(*predicted):
        return compute(given._replace(**dict(zip(parity.PREDICTED, predicted, strict=True))), DFALossSettings()).total

    leaves = [getattr(given, name).requires_grad_() for name in parity.PREDICTED]
    assert total(*leaves).dtype == torch.float64
    assert torch.autograd.gradcheck(total, leaves)


def test_float32_under_autocast(rng):
    """Whatever comes in: it is only the inputs that are rounded."""
    given = draw(rng, (1, -1, 0))
    names = (*parity.PREDICTED, "boxes", "landmarks")
    halves = given._replace(**{name: getattr(given, name).bfloat16() for name in names})
    rounded = given._replace(**{name: getattr(halves, name).float() for name in names})
    with torch.autocast("cpu", torch.bfloat16):
        found = torch.stack(compute(halves))
    assert found.dtype == torch.float32
    assert torch.equal(found, torch.stack(compute(rounded)))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"boxes": torch.zeros(2, 5)}, r"boxes must have shape \[2, 4\], got \[2, 5\]"),
        ({"landmarks": torch.zeros(2, 10)}, r"landmarks must have shape \[2, 5, 2\], got \[2, 10\]"),
        ({"kinds": torch.ones(3)}, r"kinds must have shape \[2\], got \[3\]"),
        ({"kinds": torch.ones(2)}, "kinds must be integers, got torch.float32"),
        ({"box_offsets": torch.zeros(2, 3, 4)}, r"box_offsets must have shape \[2, 4, 4\], got \[2, 3, 4\]"),
    ],
)
def test_wrong_shapes_are_refused(rng, changed, message):
    with pytest.raises(ValueError, match=message):
        compute(draw(rng, (1, 0))._replace(**changed))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"positive_overlap": 0.0}, r"positive_overlap and least_overlap must be within \(0, 1\], got 0.0 and 0.2"),
        ({"least_overlap": 1.5}, "got 0.35 and 1.5"),
        ({"negatives_per_positive": -1}, "negatives_per_positive must be >= 0, got -1"),
        ({"unannotated_face_score": 1.1}, r"unannotated_face_score must be within \[0, 1\], got 1.1"),
        ({"landmark_weight": -1.0}, "landmark_weight must be >= 0 and finite, got -1.0"),
        ({"aggregated_face_weight": math.inf}, "aggregated_face_weight must be >= 0 and finite, got inf"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DFALossSettings(**settings)
