"""KP-RPE against its definition written as loops over plain numbers, values and gradients.

Every setting is compared in float64: forms, methods, shared or not, image grids, window grids, and the image's grid
cut into shifted windows that do not fit the map.
"""

import pytest
import torch
from torch import nn

import common.rpe.keypoint_rpe as keypoint_rpe_module
from common.rpe import KeypointRPE, Window, bucket_ids, num_buckets

FORMS = ["absolute", "relative", "multihead"]
METHODS = ["product", "euclidean", "quant", "cross"]
HEADS = 2

# Grid of the feature map, and one window a layer.
PLACES = {
    "one cell": ((1, 1), None),
    "image": ((3, 4), None),
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


def centres_by_loop(grid_hw, window):
    """For every window a list of (x, y), fractions of the image; one 'window' at image level."""
    rows, cols = grid_hw
    height, width = (rows, cols) if window is None else window.size_hw
    down, right = (0, 0) if window is None else window.shift_hw
    padded_rows, padded_cols = -(-rows // height) * height, -(-cols // width) * width
    return [
        [
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
    buckets = num_buckets(rpe.method, rpe.ratio)
    weight, offset = rpe.weight.tolist(), rpe.bias.tolist()
    points, seen = keypoints.tolist(), visibility.tolist()
    to_weight, to_bias = torch.zeros_like(rpe.weight).tolist(), torch.zeros_like(rpe.bias).tolist()
    to_points, to_seen = torch.zeros_like(keypoints).tolist(), torch.zeros_like(visibility).tolist()
    biases = []
    for layer in range(rpe.num_layers):
        window = None if windows is None else windows[layer]
        tables = bucket_ids(grid_hw if window is None else window.size_hw, rpe.method, rpe.ratio).tolist()
        centres = centres_by_loop(grid_hw, window)
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


@pytest.mark.parametrize("implementation", ["affine", "direct", "large grid"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("form", FORMS)
def test_equals_the_definition(form, method, place, implementation, rng, monkeypatch):
    if implementation == "large grid":  # the affine form without its one-hot matrix
        monkeypatch.setattr(keypoint_rpe_module, "_LARGEST_BASIS", 0)
        implementation = "affine"
    grid_hw, windows = PLACES[place]
    batch, num_keypoints = {"one cell": (3, 17), "image": (1, 5), "shifted windows": (3, 1)}.get(place, (1, 2))
    shared = (FORMS.index(form) + METHODS.index(method) + list(PLACES).index(place)) % 2 == 1
    rpe = filled(rng, num_keypoints, form=form, method=method, shared=shared, implementation=implementation)
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


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("num_keypoints", [1, 5, 17])
def test_without_visibility_all_count_fully(num_keypoints, shared, rng):
    for implementation in ("affine", "direct"):
        for form in FORMS:
            rpe = filled(rng, num_keypoints, form=form, shared=shared, implementation=implementation)
            keypoints = torch.rand(3, num_keypoints, 2, generator=rng, dtype=torch.float64).requires_grad_()
            ones = torch.ones(3, num_keypoints, dtype=torch.float64)
            without, with_ones = rpe(keypoints, (2, 3)), rpe(keypoints, (2, 3), ones)
            expected, _ = definition(rpe, keypoints, ones, (2, 3), None)
            for found, same, wanted in zip(without, with_ones, expected, strict=True):
                torch.testing.assert_close(found, wanted[:, 0], rtol=1e-12, atol=1e-12)
                torch.testing.assert_close(same, wanted[:, 0], rtol=1e-12, atol=1e-12)
            for a, b in zip(
                torch.autograd.grad(sum(x.square().sum() for x in without), [rpe.weight, rpe.bias, keypoints]),
                torch.autograd.grad(sum(x.square().sum() for x in with_ones), [rpe.weight, rpe.bias, keypoints]),
                strict=True,
            ):
                torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


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


def test_large_grids_take_the_other_path_with_the_same_values(rng, monkeypatch):
    rpe = filled(rng, 5, torch.float32, num_heads=4)
    keypoints, visibility = torch.rand(2, 5, 2, generator=rng), torch.rand(2, 5, generator=rng)
    with_basis = list(rpe(keypoints, (14, 14), visibility))
    monkeypatch.setattr(keypoint_rpe_module, "_LARGEST_BASIS", 0)
    monkeypatch.setattr(keypoint_rpe_module, "_bucket_basis", None)  # must not be called
    for a, b in zip(rpe(keypoints, (14, 14), visibility), with_basis, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


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
