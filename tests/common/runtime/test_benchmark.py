"""Measurements of things whose time, memory and multiply-adds are known beforehand."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from common.rpe import KeypointRPE, PositionBiasSettings
from common.runtime import benchmark
from common.runtime.benchmark import (
    Candidate,
    environment,
    growth,
    kept_for_backward,
    measure,
    multiply_adds,
    ratios,
    spread,
    tensor_memory,
    time_rounds,
)
from common.vit import VisionTransformer

MIB = 2**20


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test moves itself."""

    class Clock:
        now = 0.0

        def step(self, seconds, log=None, name=""):
            def run():
                self.now += seconds
                if log is not None:
                    log.append(name)

            return run

    clock = Clock()
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: clock.now)
    return clock


def test_spread_and_ratios():
    assert spread([4.0, 1.0, 3.0, 2.0, 5.0]) == {
        "min": 1.0, "lower_quartile": 2.0, "median": 3.0, "upper_quartile": 4.0, "max": 5.0,
    }  # fmt: skip
    assert set(spread([7.0]).values()) == {7.0}
    # Round by round: the machine slowed down threefold, the ratio did not change.
    assert set(ratios([2.0, 6.0, 2.0], [1.0, 3.0, 1.0]).values()) == {2.0}
    with pytest.raises(ValueError, match="shorter"):
        ratios([1.0, 2.0], [1.0])


def test_steps_take_turns(clock):
    log = []
    steps = {"a": clock.step(0.25, log, "a"), "b": clock.step(0.5, log, "b")}
    times = time_rounds(steps, rounds=3)
    assert log == ["a", "b"] * 4
    assert times == {"a": [0.25] * 3, "b": [0.5] * 3}


def test_rounds_without_a_warm_up(clock):
    log = []
    assert time_rounds({"a": clock.step(1.0, log, "a")}, rounds=2, warm_up=False) == {"a": [1.0, 1.0]}
    assert log == ["a"] * 2


def test_quick_steps_are_called_more_often(clock):
    log = []
    steps = {"quick": clock.step(0.25, log, "quick"), "slow": clock.step(0.5, log, "slow")}
    times = time_rounds(steps, rounds=1, least_seconds=1.0)
    assert log == ["quick", "slow", *["quick"] * 4, *["slow"] * 4]
    assert times == {"quick": [0.25], "slow": [0.5]}  # a call, not a measurement


def test_memory_of_known_allocations():
    before = torch.zeros(5 * MIB, dtype=torch.uint8)

    def step():
        nonlocal before
        first = torch.zeros(3 * MIB, dtype=torch.uint8)
        second = torch.zeros(4 * MIB, dtype=torch.uint8)
        before = None  # not the step's own: neither counted nor deducted
        del first
        third = torch.zeros(1 * MIB, dtype=torch.uint8)
        view = second[:10]
        del second
        return view, third

    for _ in range(2):
        peak, held = tensor_memory(step)
        assert 7 * MIB <= peak < 7 * MIB + 4096
        assert 5 * MIB <= held < 5 * MIB + 4096


def test_memory_of_a_training_step_has_the_gradients():
    weight = torch.zeros(1000, 1000, requires_grad=True)
    x = torch.zeros(2, 1000)
    _, held = tensor_memory(lambda: torch.autograd.grad((x @ weight).sum(), weight))
    assert 4_000_000 <= held < 4_010_000


def test_kept_for_backward_counts_storages_once():
    a, b = (torch.zeros(100, requires_grad=True) for _ in range(2))
    assert kept_for_backward(lambda: a * b) == 800
    assert kept_for_backward(lambda: a * a) == 400
    assert kept_for_backward(lambda: a[:10] * a[50:60]) == 400  # views keep all of it alive
    assert kept_for_backward(lambda: a + b) == 0
    assert kept_for_backward(lambda: a.exp() * b) == 1200 - 400  # b and exp(a), which both operations keep

    weight = torch.zeros(50, 20, requires_grad=True)
    per_image = growth(lambda batch: kept_for_backward(lambda: (torch.zeros(batch, 50) @ weight).relu()))
    assert per_image == 4 * (50 + 20)  # the input and relu's output; not the weight


def test_keypoint_rpe_keeps_a_number_a_bucket_and_head():
    rpe = KeypointRPE(num_keypoints=5, num_heads=4, num_layers=3)
    held = growth(lambda batch: tensor_memory(lambda: rpe(torch.rand(batch, 5, 2), (14, 14))).held, batch=8)
    assert 4 * 3 * 4 * 49 <= held <= 4 * (3 * 4 * 49 + 2 * 10)  # and the keypoints themselves, as given and flattened


@pytest.mark.parametrize(
    ("forward", "expected"),
    [
        (lambda: F.linear(torch.zeros(3, 5, 7), torch.zeros(11, 7), torch.zeros(11)), 3 * 5 * 7 * 11),
        (lambda: F.conv2d(torch.zeros(2, 3, 8, 8), torch.zeros(4, 3, 2, 2), stride=2), 2 * 4 * 16 * 3 * 4),
        (lambda: F.scaled_dot_product_attention(*torch.zeros(3, 2, 4, 9, 8)), 2 * 2 * 4 * 9 * 9 * 8),
        (lambda: torch.zeros(2, 3, 5).baddbmm_(torch.zeros(2, 3, 7), torch.zeros(2, 7, 5)), 2 * 3 * 7 * 5),
        (lambda: torch.zeros(10).exp(), 0),
    ],
)
def test_multiply_adds_by_hand(forward, expected):
    assert multiply_adds(forward) == expected


@pytest.mark.parametrize("implementation", ["auto", "fused", "explicit", "compact"])
def test_multiply_adds_of_a_transformer(implementation):
    """However attention is computed; the bias costs its features and a product with the positions."""
    n, c, d, hidden, heads, buckets = 6, 16, 2, 32, 2, 49
    settings = PositionBiasSettings(position_bias="kprpe")
    model = VisionTransformer(
        (16, 24), (8, 8), embed_dim=c, depth=d, num_heads=heads, mlp_ratio=2, position_bias=settings,
        implementation=implementation,
    ).eval()  # fmt: skip
    plain = n * 3 * 64 * c + d * (n * c * 4 * c + 2 * n * c * hidden + 2 * n * n * c)
    features = d * heads * buckets * 10
    positions = d * heads * n * buckets * 2
    images, keypoints = torch.zeros(1, 3, 16, 24), torch.rand(1, 5, 2)
    found = multiply_adds(lambda: model(images, keypoints))
    # With fewer positions than half the buckets, a bias for every pair is multiplied, which is no matrix product.
    assert found == plain + features + (positions if implementation == "compact" else 0)


class Twice(nn.Linear):
    def forward(self, x):
        return super().forward(x) * 2


def test_measure_has_all_rows():
    candidates = {
        name: Candidate(model, lambda batch: (torch.ones(batch, 30),), batch=4)
        for name, model in {"one": nn.Linear(30, 20), "two": Twice(30, 20)}.items()
    }
    rows = measure(candidates, {"one": "one", "two": "one"}, ["inference", "training", "memory"], rounds=3)
    assert set(rows) == {"one", "two"}
    for row in rows.values():
        assert row["parameters"] == 620
        assert row["multiply_adds"] == 600
        assert row["memory"]["kept_for_backward_per_image"] == 4 * 30
        for mode in ("inference", "training"):
            assert len(row[mode]["rounds"]) == 3
            assert row[mode]["images_per_second"] == pytest.approx(4 / row[mode]["seconds"]["median"])
    assert set(rows["one"]["inference"]["time_over_one"].values()) == {1.0}
    expected = [
        b / a for a, b in zip(rows["one"]["training"]["rounds"], rows["two"]["training"]["rounds"], strict=True)
    ]
    assert rows["two"]["training"]["time_over_one"]["median"] == sorted(expected)[1]


def test_measure_only_what_is_asked_for():
    candidate = Candidate(nn.Linear(3, 2), lambda batch: (torch.ones(batch, 3),), batch=2)
    rows = measure({"a": candidate}, {"a": "a"}, ["training"], rounds=1)
    assert set(rows["a"]) == {"parameters", "multiply_adds", "training"}


def test_candidate_steps():
    """The gradients are those of forward and backward, and neither leaves anything on the model."""
    model = nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5))
    candidate = Candidate(model, lambda batch: (torch.ones(batch, 3),), batch=4)
    assert not model.training
    assert candidate.infer().shape == (4, 2)
    assert not candidate.infer().requires_grad
    weight, bias = candidate.train()
    assert weight.shape == (2, 3)
    torch.testing.assert_close(weight, bias[:, None].expand(-1, 3))  # all inputs are 1
    assert bias.abs().min() > 0
    assert all(parameter.grad is None for parameter in model.parameters())


def test_candidate_under_autocast():
    candidate = Candidate(nn.Linear(3, 2), lambda batch: (torch.ones(batch, 3),), 2, torch.bfloat16)
    assert candidate.infer().dtype == torch.bfloat16
    assert {gradient.dtype for gradient in candidate.train()} == {torch.float32}


def test_environment():
    found = environment("cpu")
    assert found["device"].startswith("CPU")
    assert found["threads"] == torch.get_num_threads()
    assert found["versions"]["torch"] == torch.__version__
