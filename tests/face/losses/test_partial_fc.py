"""PartialFC in one process: the loss written out in float64, gradients, sampling, unlabelled rows, bad inputs."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from face.losses import AdaFace, ArcFace, CosFace, Margin, PartialFC, class_range
from face.losses.sharded_softmax import sharded_cross_entropy, unit_cosines

LABELS = torch.tensor([4, 0, -1, 4, 6])


def layer(margin=None, classes=7, features=3, **settings):
    """Weights as long as trained ones, float64."""
    out = PartialFC(features, classes, margin or ArcFace(scale=8), **settings).double()
    out.weight.data.mul_(50)
    return out


def embeddings_of(rng, rows=5, features=3, length=1.0):
    return torch.randn(rows, features, generator=rng, dtype=torch.float64) * length


def cosface_by_loop(embeddings, labels, weight, margin, scale):
    """Mean over the labelled rows of the cross-entropy of scaled cosines, the right one's less the margin."""
    losses = []
    for embedding, label in zip(embeddings, labels.tolist(), strict=True):
        if label == -1:
            continue
        logits = []
        for number, centre in enumerate(weight):
            cosine = (embedding @ centre) / math.sqrt(embedding @ embedding) / math.sqrt(centre @ centre)
            logits.append(scale * (float(cosine) - (margin if number == label else 0)))
        largest = max(logits)
        losses.append(largest + math.log(sum(math.exp(x - largest) for x in logits)) - logits[label])
    return sum(losses) / len(losses)


class Recorded(Margin):
    """ArcFace or CosFace by operations that autograd knows the derivatives of."""

    def __init__(self, inner):
        super().__init__(inner.scale)
        self.inner = inner

    def forward(self, cosines, labels, norms):
        cosines = cosines.clamp(-1, 1)
        rows = torch.nonzero(labels >= 0)[:, 0]
        targets = cosines[rows, labels[rows]]
        if isinstance(self.inner, ArcFace):
            targets = (targets.acos() + self.inner.margin_rad).cos()
        else:
            targets = targets - self.inner.margin
        return cosines.index_put((rows, labels[rows]), targets) * self.scale


def plain(embeddings, labels, weight, margin):
    """The loss by torch's own normalisation and cross-entropy."""
    cosines = F.normalize(embeddings) @ F.normalize(weight).T
    logits = Recorded(margin)(cosines, labels, embeddings.norm(dim=1))
    return F.cross_entropy(logits, labels, ignore_index=-1)


def test_loss_equals_the_definition(rng):
    head, embeddings = layer(CosFace(margin=0.3, scale=8)), embeddings_of(rng)
    expected = cosface_by_loop(embeddings, LABELS, head.weight.detach(), 0.3, 8)
    assert float(head(embeddings, LABELS).detach()) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("margin", [ArcFace(scale=8), CosFace(scale=8)], ids=repr)
def test_gradients_equal_those_of_torch(margin, rng):
    head, embeddings = layer(margin), embeddings_of(rng).requires_grad_()
    found = torch.autograd.grad(head(embeddings, LABELS), [embeddings, head.weight])
    expected = torch.autograd.grad(plain(embeddings, LABELS, head.weight, margin), [embeddings, head.weight])
    assert_close(found, expected)
    assert not found[0][2].any()


@pytest.mark.parametrize("margin", [ArcFace(scale=8), CosFace(scale=8), AdaFace(scale=8).eval()], ids=repr)
@pytest.mark.parametrize("sampling_rate", [1.0, 0.8])
def test_gradient(margin, sampling_rate, rng):
    """AdaFace's norms are beyond 100, where they have no influence, as their gradient is left out."""
    head = layer(margin, sampling_rate=sampling_rate, generator=torch.Generator())
    margin.eval()

    def loss(embeddings, weight):
        head.generator.manual_seed(0)
        return torch.func.functional_call(head, {"weight": weight}, (embeddings, LABELS))

    embeddings = embeddings_of(rng)
    embeddings = (embeddings / embeddings.norm(dim=1, keepdim=True) * 200).requires_grad_()
    assert torch.autograd.gradcheck(loss, (embeddings, head.weight.detach().clone().requires_grad_()))


def test_parts_have_exact_gradients(rng):
    """Rows that are not of length 1 have cosines times their length, and a loss may weigh rows."""
    rows, weight = embeddings_of(rng).requires_grad_(), embeddings_of(rng, rows=4).requires_grad_()
    assert torch.autograd.gradcheck(unit_cosines, (rows, weight))
    logits = embeddings_of(rng).requires_grad_()
    labels, weights = torch.tensor([2, -1, 0, 1, 1]), torch.tensor([0.5, 0.0, 2.0, 1.0, 0.1], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: sharded_cross_entropy(x, labels, weights), logits)
    expected = (F.cross_entropy(logits, labels, ignore_index=-1, reduction="none") * weights).sum()
    assert_close(sharded_cross_entropy(logits, labels, weights), expected)


def test_a_weight_of_zeros_is_finite(rng):
    head, embeddings = layer(), embeddings_of(rng).requires_grad_()
    head.weight.data[2] = 0
    embeddings.data[1] = 0
    loss = head(embeddings, LABELS)
    loss.backward()
    assert loss.isfinite()
    assert embeddings.grad.isfinite().all()
    assert head.weight.grad.isfinite().all()


def test_a_hopeless_row_has_its_whole_loss():
    """A probability of e^-128 is nothing in float32; the loss is 128 nevertheless."""
    head = PartialFC(2, 2, CosFace(margin=0, scale=64))
    head.weight.data.copy_(torch.eye(2) - torch.eye(2).flip(0))
    loss = head(torch.tensor([[1.0, -1.0]]), torch.tensor([1])).detach()
    assert float(loss) == pytest.approx(128, rel=1e-6)


def test_embeddings_may_have_any_length(rng):
    head, embeddings = layer(), embeddings_of(rng)
    assert_close(
        head(embeddings * torch.tensor([[1.0], [1e-3], [7.0], [300.0], [2.0]]), LABELS), head(embeddings, LABELS)
    )


def test_unlabelled_rows_are_left_out(rng):
    head, embeddings = layer(), embeddings_of(rng)
    labelled = LABELS >= 0
    assert_close(head(embeddings, LABELS), head(embeddings[labelled], LABELS[labelled]))


@pytest.mark.parametrize("rows", [0, 5])
@pytest.mark.parametrize("sampling_rate", [1.0, 0.3])
def test_no_label_at_all_gives_zero_with_a_graph(rows, sampling_rate, rng):
    head, embeddings = layer(sampling_rate=sampling_rate), embeddings_of(rng, rows=rows).requires_grad_()
    loss = head(embeddings, torch.full((rows,), -1))
    loss.backward()
    assert float(loss.detach()) == 0
    assert torch.equal(embeddings.grad, torch.zeros_like(embeddings))
    assert torch.equal(head.weight.grad, torch.zeros_like(head.weight))


def test_adaface_gets_the_norms(rng):
    """And its statistics those of all rows."""
    margin = AdaFace(t_alpha=1.0)
    embeddings = embeddings_of(rng, length=20)
    layer(margin)(embeddings, LABELS)
    norms = embeddings.square().sum(1).sqrt()
    assert_close(margin.norm_mean.double(), norms.mean(), rtol=1e-6, atol=0)
    assert_close(margin.norm_std.double(), ((norms - norms.mean()).square().sum() / 4).sqrt(), rtol=1e-6, atol=0)


# Sampling


def test_positive_classes_are_always_drawn_and_others_by_lot():
    head = PartialFC(3, 20, CosFace(), sampling_rate=0.3, generator=torch.Generator().manual_seed(0))
    local = torch.tensor([4, 0, -1, 4, 19])
    times = torch.zeros(20)
    for _ in range(300):
        drawn = head._draw(local)
        assert drawn.tolist() == sorted(set(drawn.tolist()))
        assert len(drawn) == 6
        times[drawn] += 1
    assert times[[0, 4, 19]].tolist() == [300] * 3
    others = torch.cat([times[1:4], times[5:19]])
    assert_close(others, torch.full((17,), 300 * 3 / 17), rtol=0, atol=35)  # five standard deviations


@pytest.mark.parametrize(("rate", "labels", "count"), [(0.1, [5, 4, 3, 3], 3), (0.5, [5, 4, 3, 3], 4), (0.01, [-1], 1)])
def test_how_many_are_drawn(rate, labels, count):
    head = PartialFC(3, 8, CosFace(), sampling_rate=rate)
    drawn = head._draw(torch.tensor(labels)).tolist()
    assert len(drawn) == count
    assert set(labels) - {-1} <= set(drawn)


def test_sampled_loss_is_that_of_the_drawn_classes(rng):
    head = layer(classes=12, sampling_rate=0.5, generator=torch.Generator().manual_seed(3))
    embeddings = embeddings_of(rng).requires_grad_()
    loss = head(embeddings, LABELS)
    loss.backward()
    head.generator.manual_seed(3)
    drawn = head._draw(LABELS)
    weight = head.weight.detach()[drawn].requires_grad_()
    within = torch.tensor([drawn.tolist().index(label) if label >= 0 else -1 for label in LABELS.tolist()])
    expected = plain(embeddings, within, weight, head.margin)
    assert_close(loss, expected)
    assert_close(embeddings.grad, torch.autograd.grad(expected, embeddings, retain_graph=True)[0])
    assert_close(head.weight.grad[drawn], torch.autograd.grad(expected, weight)[0])
    left_out = [number for number in range(12) if number not in drawn]
    assert torch.equal(head.weight.grad[left_out], torch.zeros(6, 3, dtype=torch.float64))


def test_torchs_generator_draws_if_none_is_given(rng):
    head, embeddings = layer(classes=30, sampling_rate=0.3), embeddings_of(rng)
    losses = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        losses.append(float(head(embeddings, LABELS).detach()))
    assert losses[0] == losses[1] != losses[2]


def test_evaluation_uses_all_classes(rng):
    embeddings = embeddings_of(rng)
    sampled, whole = layer(sampling_rate=0.3).eval(), layer().eval()
    assert torch.equal(sampled(embeddings, LABELS), whole(embeddings, LABELS))


# Weights


def test_initial_weights():
    weight = PartialFC(4, 5000, CosFace(), seed=1).weight.detach()
    assert float(weight.mean()) == pytest.approx(0, abs=5e-4)
    assert float(weight.std()) == pytest.approx(0.01, rel=0.03)
    assert len(set(weight[:, 0].tolist())) > 4900  # no block repeats another
    assert torch.equal(weight[:7], PartialFC(4, 7, CosFace(), seed=1).weight)
    assert not torch.equal(weight[:7], PartialFC(4, 7, CosFace(), seed=2).weight)


@pytest.mark.parametrize(("classes", "processes"), [(10, 1), (10, 3), (11, 3), (3, 3), (1025, 4)])
def test_class_ranges_are_even_and_complete(classes, processes):
    ranges = [class_range(process, processes, classes) for process in range(processes)]
    assert [number for first, end in ranges for number in range(first, end)] == list(range(classes))
    sizes = [end - first for first, end in ranges]
    assert max(sizes) - min(sizes) <= 1


# Precision


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_embeddings_are_computed_in_float32(dtype, rng):
    head = PartialFC(16, 50, ArcFace())
    embeddings = torch.randn(5, 16, generator=rng).to(dtype).requires_grad_()
    loss = head(embeddings, LABELS)
    loss.backward()
    assert loss.dtype == torch.float32
    assert embeddings.grad.dtype == dtype
    whole = embeddings.detach().float().requires_grad_()
    expected = head(whole, LABELS)
    assert torch.equal(loss, expected)
    assert torch.equal(embeddings.grad, torch.autograd.grad(expected, whole)[0].to(dtype))


def test_autocast_changes_nothing(rng):
    head = PartialFC(16, 50, AdaFace()).eval()
    embeddings = torch.randn(5, 16, generator=rng, requires_grad=True)
    results = []
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            loss = head(embeddings, LABELS)
            results.append((loss, *torch.autograd.grad(loss, [embeddings, head.weight])))
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


# Bad inputs


@pytest.mark.parametrize("row", [0, 2])
def test_not_a_number_reaches_the_loss(row, rng):
    """Even from an unlabelled row, as it is in the gradients too."""
    embeddings = embeddings_of(rng)
    embeddings[row, 1] = float("nan")
    assert layer()(embeddings, LABELS).isnan()


@pytest.mark.parametrize("label", [7, -2])
def test_labels_out_of_range(label, rng):
    labels = LABELS.clone()
    labels[1] = label
    embeddings = embeddings_of(rng)
    smallest, largest = min(label, -1), max(label, 6)
    message = rf"labels must be within 0 and 6, or -1 .* num_classes is 7; got {smallest} to {largest}"
    with pytest.raises(ValueError, match=message):
        layer()(embeddings, labels)
    assert layer(check_labels=False)(embeddings, labels).isnan()


@pytest.mark.parametrize(
    ("embeddings", "labels", "sizes", "message"),
    [
        (torch.zeros(2, 4), torch.zeros(2).long(), None, r"embeddings must have shape \[n, 3\], got \[2, 4\]"),
        (torch.zeros(3), torch.zeros(3).long(), None, r"embeddings must have shape \[n, 3\], got \[3\]"),
        (torch.zeros(2, 3).int(), torch.zeros(2).long(), None, "embeddings must be floating point, got torch.int32"),
        (torch.zeros(2, 3), torch.zeros(2, 1).long(), None, r"labels must have shape \[2\], one a row, got \[2, 1\]"),
        (torch.zeros(2, 3), torch.zeros(2), None, "labels must be int64, got torch.float32"),
        (torch.zeros(2, 3), torch.zeros(2).long(), [3], r"1 number\(s\), that of process 0 being 2, got \[3\]"),
        (torch.zeros(2, 3), torch.zeros(2).long(), [2, 2], r"batch_sizes must have 1 number\(s\), .* got \[2, 2\]"),
    ],
)
def test_bad_inputs(embeddings, labels, sizes, message):
    with pytest.raises(ValueError, match=message):
        PartialFC(3, 7, CosFace())(embeddings, labels, sizes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_features": 0, "num_classes": 3}, "num_features must be >= 1, got 0"),
        ({"num_features": 2, "num_classes": 0}, "num_classes must be >= 1, one for each process, got 0"),
        ({"num_features": 2, "num_classes": 3, "sampling_rate": 0}, r"sampling_rate must be within \(0, 1\], got 0"),
        (
            {"num_features": 2, "num_classes": 3, "sampling_rate": 1.5},
            r"sampling_rate must be within \(0, 1\], got 1.5",
        ),
    ],
)
def test_bad_settings(arguments, message):
    with pytest.raises(ValueError, match=message):
        PartialFC(margin=CosFace(), **arguments)
