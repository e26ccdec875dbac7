"""KP-RPE against its definition written as loops over plain numbers, values and gradients.

Every setting is compared in float64: forms, methods, shared or not, image grids, window grids, and the image's grid
cut into shifted windows that do not fit the map.
"""

import copy
import pickle

import pytest
import torch
from torch import nn

import common.rpe.keypoint_rpe as keypoint_rpe_module
from common.rpe import KeypointRPE, Window, attention, bucket_ids, num_buckets

FORMS = ["absolute", "relative", "multihead"]
METHODS = ["product", "euclidean", "quant", "cross"]
HEADS = 2

# Grid of the feature map, and one window a layer.
PLACES = {
    "one cell": ((1, 1), None),
    "image": ((3, 4), None),
    "class token": ((2, 3), None),
    "shifted windows": ((4, 4), [Window((2, 2)), Window((2, 2), (1, 1))]),
    "padded windows": ((3, 5), [Window((2, 3), (0, 2)), Window((2, 3), (1, 1))]),
}


def filled(rng, num_keypoints, dtype=torch.float64, **settings):
    """A KP-RPE of two layers (unless told) with random numbers for its zeros."""
    settings = {"num_heads": HEADS, "num_layers": 2, **settings}
    rpe = KeypointRPE(num_keypoints, **settings).to(dtype)
    with torch.no_grad():
        for parameter in rpe.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng, dtype=torch.float64))
    return rpe


def centres_by_loop(grid_hw, window, extra_tokens=0):
    """For every window a list of (x, y), fractions of the image; one 'window' at image level, extra tokens first."""
    rows, cols = grid_hw
    height, width = (rows, cols) if window is None else window.size_hw
    down, right = (0, 0) if window is None else window.shift_hw
    padded_rows, padded_cols = -(-rows // height) * height, -(-cols // width) * width
    return [
        [(0.5, 0.5)] * extra_tokens
        + [
            (((left + x + right) % padded_cols + 0.5) / cols, ((top + y + down) % padded_rows + 0.5) / rows)
            for y in range(height)
            for x in range(width)
        ]
        for top in range(0, padded_rows, height)
        for left in range(0, padded_cols, width)
    ]


def definition(rpe, keypoints, visibility, grid_hw, windows, upstream=None):
    """B_ij = f(P)[i, d(i, j)] for every image, layer, window and head; and the gradients that `upstream` gives.

    Returns:
        Biases, one [B, W, H, n, n] a layer; gradients to weight, bias, keypoints, visibility.
    """
    groups = HEADS if rpe.form == "multihead" else 1
    buckets = num_buckets(rpe.method, rpe.ratio, rpe.extra_tokens)
    weight, offset = rpe.weight.tolist(), rpe.bias.tolist()
    points, seen = keypoints.tolist(), visibility.tolist()
    to_weight, to_bias = torch.zeros_like(rpe.weight).tolist(), torch.zeros_like(rpe.bias).tolist()
    to_points, to_seen = torch.zeros_like(keypoints).tolist(), torch.zeros_like(visibility).tolist()
    biases = []
    for layer in range(rpe.num_layers):
        window = None if windows is None else windows[layer]
        size_hw = grid_hw if window is None else window.size_hw
        tables = bucket_ids(size_hw, rpe.method, rpe.ratio, extra_tokens=rpe.extra_tokens).tolist()
        centres = centres_by_loop(grid_hw, window, rpe.extra_tokens)
        cells = range(len(centres[0]))
        own = 0 if rpe.shared else layer
        bias = torch.zeros(len(points), len(centres), HEADS, len(cells), len(cells), dtype=torch.float64)
        places = [
            (b, w, h, i, j)
            for b in range(len(points))
            for w in range(len(centres))
            for h in range(HEADS)
            for i in cells
            for j in cells
        ]
        for b, w, h, i, j in places:
            gradient = 0.0 if upstream is None else float(upstream[layer][b, w, h, i, j])
            total = 0.0
            for table in tables:
                row = (own * groups + (h if groups > 1 else 0)) * buckets + table[i][j]
                total += offset[row]
                to_bias[row] += gradient
                for k, point in enumerate(points[b]):
                    for c in (0, 1):
                        difference = point[c] if rpe.form == "absolute" else centres[w][i][c] - point[c]
                        total += seen[b][k] * difference * weight[row][2 * k + c]
                        to_weight[row][2 * k + c] += gradient * seen[b][k] * difference
                        to_seen[b][k] += gradient * difference * weight[row][2 * k + c]
                        sign = 1 if rpe.form == "absolute" else -1
                        to_points[b][k][c] += sign * gradient * seen[b][k] * weight[row][2 * k + c]
            bias[b, w, h, i, j] = total
        biases.append(bias)
    return biases, [torch.tensor(g, dtype=torch.float64) for g in (to_weight, to_bias, to_points, to_seen)]


@pytest.mark.parametrize("implementation", ["by query", "by pair", "direct"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("form", FORMS)
def test_equals_the_definition(form, method, place, implementation, rng, monkeypatch):
    if implementation != "direct":  # the two ways to compute the affine form
        monkeypatch.setattr(keypoint_rpe_module, "_by_query", lambda *_: implementation == "by query")
    fast_or_direct = "direct" if implementation == "direct" else "affine"
    grid_hw, windows = PLACES[place]
    batch, num_keypoints = {"one cell": (3, 17), "image": (1, 5), "shifted windows": (3, 1)}.get(place, (1, 2))
    shared = (FORMS.index(form) + METHODS.index(method) + list(PLACES).index(place)) % 2 == 1
    extra_tokens = 2 if place == "class token" else 0
    rpe = filled(
        rng,
        num_keypoints,
        form=form,
        method=method,
        shared=shared,
        implementation=fast_or_direct,
        extra_tokens=extra_tokens,
    )
    keypoints = torch.rand(batch, num_keypoints, 2, generator=rng, dtype=torch.float64).requires_grad_()
    visibility = (0.1 + 0.9 * torch.rand(batch, num_keypoints, generator=rng, dtype=torch.float64)).requires_grad_()

    biases = list(rpe(keypoints, grid_hw, visibility, windows))
    upstream = [torch.randn(bias.shape, generator=rng, dtype=torch.float64) for bias in biases]
    flat = [bias if windows else bias[:, None] for bias in upstream]
    expected, gradients = definition(rpe, keypoints, visibility, grid_hw, windows, flat)
    for bias, wanted in zip(biases, expected, strict=True):
        torch.testing.assert_close(bias if windows else bias[:, None], wanted, rtol=1e-12, atol=1e-12)
    leaves = [rpe.weight, rpe.bias, keypoints, visibility]
    for found, wanted in zip(torch.autograd.grad(biases, leaves, upstream), gradients, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("path", ["by query", "by pair", "direct"])
@pytest.mark.parametrize("place", ["image", "shifted windows"])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("num_keypoints", [1, 5])
def test_without_visibility_all_count_fully(num_keypoints, shared, place, path, rng, monkeypatch):
    monkeypatch.setattr(keypoint_rpe_module, "_by_query", lambda *_: path == "by query")
    implementation = "direct" if path == "direct" else "affine"
    grid_hw, windows = PLACES[place]
    for form in FORMS:
        rpe = filled(rng, num_keypoints, form=form, shared=shared, implementation=implementation)
        keypoints = torch.rand(2, num_keypoints, 2, generator=rng, dtype=torch.float64).requires_grad_()
        ones = torch.ones(2, num_keypoints, dtype=torch.float64)
        without, with_ones = list(rpe(keypoints, grid_hw, None, windows)), list(rpe(keypoints, grid_hw, ones, windows))
        upstream = [torch.randn(bias.shape, generator=rng, dtype=torch.float64) for bias in without]
        flat = [bias if windows else bias[:, None] for bias in upstream]
        expected, gradients = definition(rpe, keypoints, ones, grid_hw, windows, flat)
        for biases in (without, with_ones):
            for found, wanted in zip(biases, expected, strict=True):
                torch.testing.assert_close(found if windows else found[:, None], wanted, rtol=1e-12, atol=1e-12)
            found = torch.autograd.grad(biases, [rpe.weight, rpe.bias, keypoints], upstream)
            for a, b in zip(found, gradients[:3], strict=True):
                torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("form", FORMS)
def test_affine_equals_direct(form, dtype, tolerance, rng):
    affine = filled(rng, 5, dtype, form=form, num_heads=8, num_layers=3)
    direct = KeypointRPE(5, 8, 3, form=form, implementation="direct").to(dtype)
    direct.load_state_dict(affine.state_dict())
    keypoints = torch.rand(2, 5, 2, generator=rng).to(dtype)
    visibility = torch.rand(2, 5, generator=rng).to(dtype)
    windows = [Window((4, 3), shift) for shift in ((0, 0), (2, 1), (1, 1))]
    for grid_hw, cut in (((14, 14), None), ((10, 7), windows)):
        arguments = (keypoints, grid_hw, visibility, cut)
        for a, b in zip(affine(*arguments), direct(*arguments), strict=True):
            assert a.shape == b.shape
            assert (a - b).abs().max() <= tolerance * b.abs().max()


@pytest.mark.parametrize("windows", [None, [Window((2, 2), (1, 1))]], ids=["image", "windows"])
@pytest.mark.parametrize("form", FORMS)
def test_gradcheck(form, windows, rng):
    rpe = filled(rng, 2, form=form, num_layers=1, method="cross")
    keypoints = torch.rand(2, 2, 2, generator=rng, dtype=torch.float64).requires_grad_()
    visibility = (0.2 + 0.6 * torch.rand(2, 2, generator=rng, dtype=torch.float64)).requires_grad_()

    def bias(points, seen, weight, offset):
        arguments = (points, (2, 3), seen, windows)
        # Indexing computes the layer, which must happen while the parameters are replaced.
        with torch.nn.utils.stateless._reparametrize_module(rpe, {"weight": weight, "bias": offset}):
            return rpe(*arguments)[0]

    assert torch.autograd.gradcheck(bias, (keypoints, visibility, rpe.weight, rpe.bias))


def test_starts_at_zero_and_gives_zero():
    rpe = KeypointRPE(17, 4, 2)
    assert not rpe.weight.any()
    assert not rpe.bias.any()
    for bias in rpe(torch.rand(2, 17, 2), (3, 5)):
        assert bias.shape == (2, 4, 15, 15)
        assert torch.equal(bias, torch.zeros_like(bias))


@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), -1e30])
@pytest.mark.parametrize("implementation", ["affine", "direct"])
@pytest.mark.parametrize("form", FORMS)
def test_unseen_keypoints_have_no_influence(form, implementation, garbage, rng):
    rpe = filled(rng, 3, form=form, implementation=implementation)
    clean = torch.rand(2, 3, 2, generator=rng, dtype=torch.float64)
    visibility = torch.tensor([[1.0, 0.0, 0.5], [0.0, 1.0, 1.0]], dtype=torch.float64)
    dirty = clean.clone()
    dirty[0, 1], dirty[1, 0, 1] = garbage, garbage
    results = []
    for points in (clean, dirty):
        points = points.clone().requires_grad_()
        seen = visibility.clone().requires_grad_()
        biases = list(rpe(points, (3, 2), seen))
        loss = sum(bias.square().sum() for bias in biases)
        results.append([*biases, *torch.autograd.grad(loss, [rpe.weight, rpe.bias, points, seen])])
    for from_clean, from_dirty in zip(*results, strict=True):
        assert torch.isfinite(from_dirty).all()
        assert torch.equal(from_clean, from_dirty)
    to_points = results[1][-2]
    assert not to_points[0, 1].any()
    assert to_points[0, 0].all()


def test_coordinates_stay_float32_under_autocast(rng):
    rpe = filled(rng, 5, torch.float32)
    keypoints, visibility = torch.rand(2, 5, 2, generator=rng), torch.rand(2, 5, generator=rng)
    for implementation in ("affine", "direct"):
        rpe.implementation = implementation
        expected = list(rpe(keypoints, (3, 4), visibility))
        with torch.autocast("cpu", torch.bfloat16):
            found = list(rpe(keypoints, (3, 4), visibility))
        for a, b in zip(found, expected, strict=True):
            assert a.dtype == torch.float32
            assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_in_and_float32_out(dtype, rng):
    keypoints = torch.rand(2, 5, 2, generator=rng).to(dtype)
    for implementation in ("affine", "direct"):
        rpe = filled(rng, 5, torch.float32, implementation=implementation)
        for a, b in zip(rpe(keypoints, (3, 4)), rpe(keypoints.float(), (3, 4)), strict=True):
            assert a.dtype == torch.float32
            assert torch.equal(a, b)
        rpe = rpe.to(dtype)
        rounded = KeypointRPE(5, HEADS, 2, implementation=implementation)
        rounded.load_state_dict(rpe.state_dict())
        for a, b in zip(rpe(keypoints, (3, 4)), rounded(keypoints.float(), (3, 4)), strict=True):
            assert a.dtype == torch.float32
            assert torch.equal(a, b)


def test_layers_are_independent_unless_shared(rng):
    keypoints = torch.rand(1, 5, 2, generator=rng, dtype=torch.float64)
    for shared in (False, True):
        rpe = filled(rng, 5, num_layers=3, shared=shared)
        gradient = torch.autograd.grad(rpe(keypoints, (3, 3))[1].square().sum(), rpe.weight)[0]
        touched = gradient.view(-1, HEADS * 49, 10).abs().sum((1, 2)) > 0
        assert touched.tolist() == ([True] if shared else [False, True, False])
        biases = rpe(keypoints, (3, 3))
        assert torch.equal(biases[0], biases[2]) is shared


def test_heads_share_one_bias_unless_multihead(rng):
    keypoints = torch.rand(1, 5, 2, generator=rng, dtype=torch.float64)
    for form in FORMS:
        bias = filled(rng, 5, form=form)(keypoints, (3, 3))[0]
        assert torch.equal(bias[:, 0], bias[:, 1]) is (form != "multihead")


def test_biases_are_a_sequence(rng):
    rpe = filled(rng, 5, num_layers=4)
    biases = rpe(torch.rand(1, 5, 2, generator=rng, dtype=torch.float64), (2, 3))
    assert len(biases) == 4
    layers = list(biases)
    assert len(layers) == 4
    for index in range(-4, 4):
        assert torch.equal(biases[index], layers[index])
    assert all(torch.equal(a, b) for a, b in zip(biases[1::2], layers[1::2], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(reversed(biases), layers[::-1], strict=True))
    assert biases[4:] == []
    for index in (4, -5):
        with pytest.raises(IndexError, match=f"layer {index} of 4"):
            biases[index]


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        # ViT-S of the paper: 12 layers of 8 heads, 49 buckets, 5 points; weights of 2 x 5 and one bias.
        ({"num_keypoints": 5, "num_heads": 8, "num_layers": 12}, 49 * 96 * 11),
        ({"num_keypoints": 5, "num_heads": 16, "num_layers": 24}, 49 * 384 * 11),
        ({"num_keypoints": 5, "num_heads": 8, "num_layers": 12, "form": "relative"}, 49 * 12 * 11),
        ({"num_keypoints": 5, "num_heads": 8, "num_layers": 12, "shared": True}, 49 * 8 * 11),
        ({"num_keypoints": 17, "num_heads": 2, "method": "cross"}, 14 * 2 * 35),
    ],
)
def test_number_of_parameters(settings, count):
    assert sum(parameter.numel() for parameter in KeypointRPE(**settings).parameters()) == count


def test_first_seen_in_inference_mode_and_then_trained(rng):
    """Evaluating first fills the caches; training afterwards must not meet inference tensors there."""
    rpe = filled(rng, 3, torch.float32)
    keypoints = torch.rand(1, 3, 2, generator=rng)
    windows = [Window((2, 4)), Window((2, 4), (1, 2))]
    for implementation in ("affine", "direct"):
        rpe.implementation = implementation
        with torch.inference_mode():
            before = [*rpe(keypoints, (7, 2)), *rpe(keypoints, (4, 9), windows=windows)]
        after = [*rpe(keypoints, (7, 2)), *rpe(keypoints, (4, 9), windows=windows)]
        sum(bias.square().sum() for bias in after).backward()
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        assert rpe.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("method", METHODS)
def test_extra_tokens_leave_the_biases_of_the_grid_as_they_are(method, rng):
    plain = filled(rng, 5, method=method)
    extra = filled(rng, 5, method=method, extra_tokens=3)
    positions = num_buckets(method)
    with torch.no_grad():
        for name in ("weight", "bias"):
            rows = getattr(extra, name).view(2 * HEADS, extra.num_buckets, -1)
            rows[:, :positions] = getattr(plain, name).view(2 * HEADS, positions, -1)
    keypoints, visibility = torch.rand(2, 5, 2, generator=rng).double(), torch.rand(2, 5, generator=rng).double()
    for a, b in zip(extra(keypoints, (2, 3), visibility), plain(keypoints, (2, 3), visibility), strict=True):
        assert a.shape == (2, HEADS, 9, 9)
        torch.testing.assert_close(a[:, :, 3:, 3:], b, rtol=1e-12, atol=1e-12)
        # A query without a position has the same bias for all keys, which softmax ignores.
        assert torch.equal(a[:, :, :3], a[:, :, :3, :1].expand(-1, -1, -1, 9))
        # The bias that a position has for them is its own, and the same for all of them.
        assert torch.equal(a[:, :, 3:, :3], a[:, :, 3:, :1].expand(-1, -1, -1, 3))
        assert a[0, 0, 3:, 0].unique().numel() == 6


def test_frozen_weights_are_folded_once_and_never_stale(rng, monkeypatch):
    rpe = filled(rng, 5, torch.float32)
    keypoints = torch.rand(2, 5, 2, generator=rng)
    windows = [Window((2, 2)), Window((2, 2), (1, 1))]
    computed = []
    centres_of = KeypointRPE._centres
    positions_of = KeypointRPE._positions

    def counted(of):
        def call(self, *args):
            computed.append(of)
            return of(self, *args)

        return call

    monkeypatch.setattr(KeypointRPE, "_centres", counted(centres_of))
    monkeypatch.setattr(KeypointRPE, "_positions", counted(positions_of))

    def run():
        computed.clear()
        return [*rpe(keypoints, (6, 6)), *rpe(keypoints, (4, 4), windows=windows)], len(computed)

    trained, while_training = run()
    assert while_training == 4
    assert all(bias.requires_grad for bias in trained)
    assert run()[1] == 4
    with torch.inference_mode():
        folded, first = run()
        again, second = run()
    assert (first, second) == (4, 0)
    for a, b, c in zip(trained, folded, again, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)
    # What was kept in inference mode serves a frozen module under autograd.
    points = keypoints.clone().requires_grad_()
    rpe.requires_grad_(False)
    assert rpe(points, (6, 6))[0].sum().requires_grad
    with torch.no_grad():
        # A write that version counters do not see.
        rpe.weight.data.mul_(2.0)
        changed, count = run()
        assert count == 4
        rpe.implementation = "direct"
        for a, b in zip(changed, run()[0], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_copies_and_pickles_carry_no_folded_tables(rng):
    rpe = filled(rng, 5, torch.float32)
    with torch.no_grad():
        before = rpe(torch.full((1, 5, 2), 0.3), (6, 6))[0]
        for other in (copy.deepcopy(rpe), pickle.loads(pickle.dumps(rpe))):
            assert torch.equal(other(torch.full((1, 5, 2), 0.3), (6, 6))[0], before)
    assert len(pickle.dumps(rpe)) < len(pickle.dumps(rpe.state_dict())) + 5000


@pytest.mark.parametrize("visible", [False, True])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiles_without_graph_breaks(backend, visible, rng):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.rpe = filled(rng, 5, torch.float32)
            self.windows = [Window((2, 2)), Window((2, 2), (1, 1))]

        def forward(self, query, keypoints, visibility):
            image = self.rpe(keypoints, (6, 6), visibility)
            cut = self.rpe(keypoints, (4, 4), visibility, self.windows)
            here = self.rpe(keypoints, (4, 4), visibility, [Window((2, 2), (0, 1)), Window((2, 2))])
            return attention(query, query, query, image.layer(1)), cut[1], here[0]

    model, visibility = Model(), torch.rand(3, 5, generator=rng) if visible else None
    query, keypoints = torch.randn(3, HEADS, 36, 4, generator=rng), torch.rand(3, 5, 2, generator=rng)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    found, expected = [], []
    for run, results in ((compiled, found), (model, expected)):
        points = keypoints.clone().requires_grad_()
        model.zero_grad()
        out = run(query, points, visibility)
        sum(part.square().sum() for part in out).backward()
        results += [*out, points.grad, model.rpe.weight.grad.clone()]
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_compiled_it_takes_other_batches_and_grids(rng):
    rpe = filled(rng, 5, torch.float32)
    torch._dynamo.reset()

    @torch.compile(backend="eager", fullgraph=True)
    def biases(images, keypoints):
        return rpe(keypoints, (images.shape[1] // 4, images.shape[2] // 4)).layer(1).tensor()

    for batch, rows, cols in ((2, 3, 4), (3, 3, 4), (5, 6, 2), (1, 2, 7)):
        keypoints = torch.rand(batch, 5, 2, generator=rng)
        found = biases(torch.zeros(batch, 4 * rows, 4 * cols), keypoints)
        torch.testing.assert_close(found, rpe(keypoints, (rows, cols))[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("strict", [False, True])
def test_exports_with_keypoints_as_an_input(strict, rng):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.rpe = filled(rng, 5, torch.float32)

        def forward(self, query, keypoints, visibility):
            return attention(query, query, query, self.rpe(keypoints, (5, 3), visibility).layer(1))

    model = Model().eval()
    inputs = [torch.randn(3, HEADS, 15, 4, generator=rng), torch.rand(3, 5, 2, generator=rng)]
    inputs.append(torch.rand(3, 5, generator=rng))
    batch = torch.export.Dim("batch")
    program = torch.export.export(model, tuple(inputs), dynamic_shapes=({0: batch},) * 3, strict=strict)
    # Another batch, and a real run after tables were first asked for with fake tensors.
    more = tuple(torch.cat([part, part.flip(0)]) for part in inputs)
    torch.testing.assert_close(program.module()(*more), model(*more), rtol=1e-5, atol=1e-5)


def test_state_dict_round_trip(rng):
    rpe = filled(rng, 5, torch.float32)
    assert list(rpe.state_dict()) == ["weight", "bias"]
    other = KeypointRPE(5, HEADS, 2)
    other.load_state_dict(rpe.state_dict())
    keypoints = torch.rand(1, 5, 2, generator=rng)
    assert torch.equal(other(keypoints, (3, 3))[1], rpe(keypoints, (3, 3))[1])
    with pytest.raises(RuntimeError, match="size mismatch"):
        KeypointRPE(5, HEADS, 3).load_state_dict(rpe.state_dict())


def test_a_host_that_initialises_every_layer_leaves_it_at_zero():
    network = nn.Sequential(nn.Linear(3, 3), KeypointRPE(5, HEADS, 2))

    def initialise(module):
        if isinstance(module, (nn.Linear, nn.LayerNorm, nn.Conv2d)):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)

    network.apply(initialise)
    assert not any(parameter.any() for parameter in network[1].parameters())


def test_bad_settings():
    for name in ("num_keypoints", "num_heads", "num_layers"):
        with pytest.raises(ValueError, match=f"{name} must be >= 1, got 0"):
            KeypointRPE(**{"num_keypoints": 5, "num_heads": 2, name: 0})
    with pytest.raises(ValueError, match="form must be one of absolute, relative, multihead, got 'both'"):
        KeypointRPE(5, 2, form="both")
    with pytest.raises(ValueError, match="method must be one of product, euclidean, quant, cross, got 'l1'"):
        KeypointRPE(5, 2, method="l1")
    with pytest.raises(ValueError, match="ratio must be"):
        KeypointRPE(5, 2, ratio=0.0)
    with pytest.raises(ValueError, match="implementation must be affine or direct, got 'fast'"):
        KeypointRPE(5, 2, implementation="fast")
    with pytest.raises(ValueError, match="extra_tokens must be >= 0, got -1"):
        KeypointRPE(5, 2, extra_tokens=-1)
    with pytest.raises(ValueError, match="windows hold no extra tokens, but this KP-RPE was built for 1"):
        KeypointRPE(5, 2, extra_tokens=1)(torch.rand(1, 5, 2), (4, 4), windows=[Window((2, 2))])


def test_bad_inputs():
    rpe = KeypointRPE(5, 2, 3)
    good = torch.rand(2, 5, 2)
    for shape in ((2, 4, 2), (2, 5, 3), (5, 2), (1, 2, 5, 2)):
        with pytest.raises(ValueError, match=r"keypoints must have shape \[B, 5, 2\], got \[" + str(shape[0])):
            rpe(torch.rand(shape), (3, 3))
    with pytest.raises(ValueError, match=r"floating point fractions of the image, got torch\.int64"):
        rpe(torch.zeros(2, 5, 2, dtype=torch.long), (3, 3))
    for shape in ((2, 4), (5,), (2, 5, 1)):
        with pytest.raises(ValueError, match=r"visibility must have shape \[2, 5\]"):
            rpe(good, (3, 3), torch.ones(shape))
    with pytest.raises(ValueError, match="one window for each of 3 layers, got 2"):
        rpe(good, (3, 3), windows=[Window((3, 3))] * 2)
    with pytest.raises(ValueError, match=r"must be fractions of the image.*are they in pixels"):
        rpe(good * 112, (3, 3))
    with pytest.raises(ValueError, match="must be finite"):
        rpe(torch.full((2, 5, 2), float("nan")), (3, 3))
    with pytest.raises(ValueError, match=r"grid_hw must be \(rows, cols\)"):
        rpe(good, (0, 3))[0]


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan")])
def test_visibility_out_of_range_is_refused(value):
    with pytest.raises(ValueError, match="visibility must be within 0 and 1"):
        KeypointRPE(2, 1)(torch.rand(1, 2, 2), (2, 2), torch.tensor([[value, 1.0]]))
