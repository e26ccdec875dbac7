"""Window attention against loops over windows, heads, queries and keys; stages, merging; stochastic depth."""

import itertools
import math

import pytest
import torch

from common.rpe import PositionBiasSettings, TableRPE, TimeWindow, Window
from common.swin import PatchMerging, SwinBlock, SwinTransformer, WindowAttention


def attention_by_loop(attn, x, bias_of):
    """Attention of one layer for [F, rows, cols, C], cell by cell.

    A window of the shifted map holds the cells (y + down) mod rows, (x + right) mod cols of the map padded with zeros;
    two of them that wrapped around the border differently are kept apart by -100.

    Args:
        bias_of: (frame, window, head, i, j) to a number, windows and positions counted row by row.
    """
    frames, rows, cols, dim = x.shape
    (height, width), (down, right) = attn.window
    padded_rows, padded_cols = math.ceil(rows / height) * height, math.ceil(cols / width) * width
    heads, d = attn.num_heads, dim // attn.num_heads
    out = torch.zeros_like(x)
    for frame in range(frames):
        for window in range(padded_rows // height * (padded_cols // width)):
            top, left = divmod(window, padded_cols // width)
            cells = []  # (row, col, went over the bottom, went over the right)
            for dy in range(height):
                for dx in range(width):
                    row, col = top * height + dy + down, left * width + dx + right
                    cells.append((row % padded_rows, col % padded_cols, row >= padded_rows, col >= padded_cols))
            zero = torch.zeros(dim, dtype=x.dtype)
            tokens = [x[frame, r, c] if r < rows and c < cols else zero for r, c, _, _ in cells]
            qkv = [attn.qkv.weight @ token + attn.qkv.bias for token in tokens]
            for i, (row, col, *wrapped) in enumerate(cells):
                if row >= rows or col >= cols:
                    continue
                merged = []
                for head in range(heads):
                    query = qkv[i][head * d : (head + 1) * d]
                    logits, values = [], []
                    for j, (_, _, *other_wrapped) in enumerate(cells):
                        key = qkv[j][dim + head * d : dim + (head + 1) * d]
                        apart = -100.0 if wrapped != other_wrapped else 0.0
                        logits.append(float(query @ key) / math.sqrt(d) + bias_of(frame, window, head, i, j) + apart)
                        values.append(qkv[j][2 * dim + head * d : 2 * dim + (head + 1) * d])
                    weights = [math.exp(logit - max(logits)) for logit in logits]
                    merged.append(sum(w / sum(weights) * v for w, v in zip(weights, values, strict=True)))
                out[frame, row, col] = attn.proj.weight @ torch.cat(merged) + attn.proj.bias
    return out


LAYERS = {
    "plain": ((4, 6), Window((2, 3))),
    "shifted": ((4, 6), Window((2, 3), (1, 1))),
    "shifted along rows alone": ((4, 3), Window((2, 3), (1, 0))),
    "padded": ((3, 5), Window((2, 3))),
    "padded and shifted": ((5, 4), Window((3, 3), (1, 1))),
}


@pytest.mark.parametrize("kind", ["none", "table", "frame", "window"])
@pytest.mark.parametrize("layer", LAYERS)
@torch.no_grad()
def test_window_attention_equals_the_definition(layer, kind, rng):
    (rows, cols), window = LAYERS[layer]
    frames, dim, heads, n = 2, 8, 2, math.prod(window.size_hw)
    attn = WindowAttention(dim, heads, window).double()
    for parameter in attn.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=rng, dtype=torch.float64))
    x = torch.randn(frames, rows, cols, dim, generator=rng, dtype=torch.float64)
    count = math.ceil(rows / window.size_hw[0]) * math.ceil(cols / window.size_hw[1])
    full = torch.randn(frames, count, heads, n, n, generator=rng, dtype=torch.float64)
    if kind == "none":
        bias, bias_of = None, lambda *_: 0.0
    elif kind == "table":
        table = TableRPE(window.size_hw, heads).double()()
        bias, bias_of = table, lambda frame, w, head, i, j: float(table[head, i, j])
    elif kind == "frame":
        bias, bias_of = full[:, :1], lambda frame, w, head, i, j: float(full[frame, 0, head, i, j])
    else:
        bias, bias_of = full, lambda *place: float(full[place])
    torch.testing.assert_close(attn(x, bias), attention_by_loop(attn, x, bias_of), rtol=1e-11, atol=1e-11)


def clip_attention_by_loop(attn, x, bias):
    """Attention of one layer over time for clips [N, T, rows, cols, C], cell by cell.

    As `attention_by_loop`, with a third axis; a clip that is no longer than the window is one window without a shift.

    Args:
        bias: [N, S, W, H, t n, t n].
    """
    clips, *cells_of_clip, dim = x.shape
    frames = cells_of_clip[0]
    size, shift = attn.time
    sizes = (min(size, frames), *attn.window.size_hw)
    shifts = (shift if frames > size else 0, *attn.window.shift_hw)
    padded = [math.ceil(cells / side) * side for cells, side in zip(cells_of_clip, sizes, strict=True)]
    heads, d = attn.num_heads, dim // attn.num_heads
    counts = [cells // side for cells, side in zip(padded, sizes, strict=True)]
    out = torch.zeros_like(x)
    for clip, corner in itertools.product(range(clips), itertools.product(*map(range, counts))):
        w = corner[1] * counts[2] + corner[2]
        members = []  # (frame, row, col), and over which borders it went
        for inside in itertools.product(*map(range, sizes)):
            at = [c * side + i + s for c, side, i, s in zip(corner, sizes, inside, shifts, strict=True)]
            wrapped = tuple(place >= cells for place, cells in zip(at, padded, strict=True))
            members.append((tuple(place % cells for place, cells in zip(at, padded, strict=True)), wrapped))
        real = [all(p < cells for p, cells in zip(place, cells_of_clip, strict=True)) for place, _ in members]
        tokens = torch.stack([
            x[(clip, *place)] if is_real else torch.zeros(dim, dtype=x.dtype)
            for (place, _), is_real in zip(members, real, strict=True)
        ])  # fmt: skip
        query, key, value = attn.qkv(tokens).view(-1, 3, heads, d).unbind(1)
        for i, (place, wrapped) in enumerate(members):
            if not real[i]:
                continue
            merged = []
            for head in range(heads):
                logits = [
                    float(query[i, head] @ key[j, head]) / math.sqrt(d)
                    + float(bias[clip, corner[0], w, head, i, j])
                    + (-100.0 if other != wrapped else 0.0)
                    for j, (_, other) in enumerate(members)
                ]
                weights = [math.exp(logit - max(logits)) for logit in logits]
                merged.append(sum(v / sum(weights) * value[j, head] for j, v in enumerate(weights)))
            out[(clip, *place)] = attn.proj(torch.cat(merged))
    return out


CLIPS = {
    "plain": (4, (2, 2), Window((2, 2)), TimeWindow(2)),
    "shifted in time": (6, (2, 3), Window((2, 3)), TimeWindow(3, 1)),
    "padded and shifted": (4, (3, 2), Window((2, 2), (1, 0)), TimeWindow(3, 1)),
    "shifted by more": (5, (2, 3), Window((2, 2), (0, 1)), TimeWindow(3, 2)),
    "shorter than the window": (2, (3, 3), Window((2, 2), (1, 1)), TimeWindow(3, 1)),
    "one frame": (1, (2, 3), Window((2, 3)), TimeWindow(3, 1)),
}


@pytest.mark.parametrize("kind", ["none", "table", "clip", "window"])
@pytest.mark.parametrize("layer", CLIPS)
@torch.no_grad()
def test_attention_over_time_equals_the_definition(layer, kind, rng):
    frames, (rows, cols), window, time = CLIPS[layer]
    clips, dim, heads = 2, 4, 2
    attn = WindowAttention(dim, heads, window, time).double()
    for parameter in attn.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=rng, dtype=torch.float64))
    x = torch.randn(clips, frames, rows, cols, dim, generator=rng, dtype=torch.float64)
    size = min(time.size, frames)
    positions = size * math.prod(window.size_hw)
    spans = math.ceil(frames / size)
    count = math.ceil(rows / window.size_hw[0]) * math.ceil(cols / window.size_hw[1])
    full = (clips, spans, count, heads, positions, positions)
    bias = torch.randn(full, generator=rng, dtype=torch.float64)
    if kind == "none":
        bias = None
    elif kind == "table":
        bias = TableRPE((time.size, *window.size_hw), heads).double()()[:, :positions, :positions]
    elif kind == "clip":
        bias = bias[:, :, :1]
    expected = clip_attention_by_loop(attn, x, torch.zeros(full) if bias is None else bias.expand(full))
    found = attn(x.flatten(0, 1), bias, clips)
    torch.testing.assert_close(found.unflatten(0, (clips, frames)), expected, rtol=1e-11, atol=1e-11)


def test_the_mask_is_built_while_evaluating_and_used_in_training():
    attn, table = WindowAttention(4, 2, Window((2, 3), (1, 2))), TableRPE((2, 3), 2)
    x = torch.randn(1, 4, 9, 4)
    with torch.inference_mode():
        before = attn(x, table())
    after = attn(x, table())
    after.sum().backward()
    assert torch.equal(before, after)
    assert table.relative_position_bias_table.grad.abs().sum() > 0


def transformer(position_bias, **settings):
    options = {
        "in_channels": 3,
        "feature_size": (12, 8),
        "patch_size": 2,
        "embed_dim": 8,
        "depths": (2, 2),
        "num_heads": (2, 4),
        "window_size": (3, 2),
        "mlp_ratio": 2.0,
        "drop_path_rate": 0.0,
    }
    grid = settings.pop("keypoint_grid", "window")
    bias = PositionBiasSettings(position_bias=position_bias, num_keypoints=5, keypoint_grid=grid)
    return SwinTransformer(**{**options, **settings}, bias=bias).eval()


@pytest.fixture
def inputs(rng):
    """Feature maps, keypoints and visibility of four frames."""
    return (
        torch.randn(4, 3, 12, 8, generator=rng),
        torch.rand(4, 5, 2, generator=rng),
        torch.rand(4, 5, generator=rng),
    )


@pytest.mark.parametrize("grid", ["window", "image"])
def test_fresh_kprpe_changes_nothing(grid, inputs):
    features, keypoints, visibility = inputs
    plain, kprpe = transformer("none"), transformer("kprpe", keypoint_grid=grid)
    missing, unexpected = kprpe.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected
    assert sorted(missing) == [
        f"layers.{stage}.position_bias.kprpe.{name}" for stage in (0, 1) for name in ("bias", "weight")
    ]
    with torch.no_grad():
        expected = plain(features, None, None, 2)
        assert torch.equal(kprpe(features, keypoints, visibility, 2), expected)
        assert torch.equal(kprpe(features, keypoints, None, 2), expected)


def test_image_grid_differs_from_window_grid_once_trained(inputs, rng):
    features, keypoints, visibility = inputs
    window, image = transformer("kprpe"), transformer("kprpe", keypoint_grid="image")
    with torch.no_grad():
        for name, parameter in window.named_parameters():
            if "kprpe" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=rng))
        image.load_state_dict(window.state_dict())
        a, b = (network(features, keypoints, visibility, 2) for network in (window, image))
        assert (a - b).abs().max() > 0.01
        # The points matter to both, and so does their visibility.
        for network, out in ((window, a), (image, b)):
            assert (network(features, keypoints.flip(-1), visibility, 2) - out).abs().max() > 0.01
            assert (network(features, keypoints, None, 2) - out).abs().max() > 0.01


def test_shapes_and_shifts():
    network = transformer("table", feature_size=(30, 20), window_size=(3, 5), depths=(4, 2))
    assert network(torch.randn(2, 3, 30, 20), None, None, 1).shape == (2, 15, 10, 16)
    shifts = [[window.shift_hw for window in layer.windows] for layer in network.layers]
    assert shifts == [[(0, 0), (1, 2), (0, 0), (1, 2)], [(0, 0), (1, 2)]]
    # No shift towards a side on which the window is as large as the map.
    wide = transformer("table", window_size=(3, 4))
    assert [window.shift_hw for window in wide.layers[0].windows] == [(0, 0), (1, 0)]


@pytest.mark.parametrize("grid_hw", [(4, 6), (3, 4), (4, 5), (5, 1)])
@torch.no_grad()
def test_merging_equals_the_definition(grid_hw, rng):
    """A new token is a linear map of the four that it stands for, those beyond the border being zero."""
    (rows, cols), dim = grid_hw, 3
    merging = PatchMerging(dim).double()
    for parameter in merging.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=rng, dtype=torch.float64))
    x = torch.randn(2, rows, cols, dim, generator=rng, dtype=torch.float64)
    found = merging(x)
    assert found.shape == (2, math.ceil(rows / 2), math.ceil(cols / 2), 2 * dim)
    for frame, row, col in itertools.product(*map(range, found.shape[:3])):
        four = []
        for right, down in ((0, 0), (0, 1), (1, 0), (1, 1)):
            y, z = 2 * row + down, 2 * col + right
            four.append(x[frame, y, z] if y < rows and z < cols else torch.zeros(dim, dtype=x.dtype))
        token = torch.cat(four)
        normed = (token - token.mean()) / (token.var(correction=0) + 1e-5).sqrt()
        expected = merging.reduction.weight @ (normed * merging.norm.weight + merging.norm.bias)
        torch.testing.assert_close(found[frame, row, col], expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("grid", ["window", "image"])
def test_stages_that_merge(grid, inputs):
    """Each has the grid of its own tokens; keypoints, as fractions, stand for the same places on all of them."""
    features, keypoints, visibility = inputs
    settings = {"feature_size": (14, 10), "depths": (2, 1, 2), "num_heads": (2, 4, 8), "window_size": (2, 2)}
    network = transformer("kprpe", keypoint_grid=grid, merge=True, **settings)
    assert [layer.grid_hw for layer in network.layers] == [(7, 5), (4, 3), (2, 2)]
    assert [layer.windows[-1].shift_hw for layer in network.layers] == [(1, 1), (0, 0), (0, 0)]
    features = torch.nn.functional.pad(features, (1, 1, 1, 1))
    out = network(features, keypoints, visibility, 4)
    assert out.shape == (4, *network.out_hw, network.out_channels) == (4, 2, 2, 32)
    plain = transformer("none", merge=True, **settings)
    plain.load_state_dict({name: value for name, value in network.state_dict().items() if "kprpe" not in name})
    torch.testing.assert_close(plain(features, None, None, 4), out)


def test_a_window_must_fit_every_map():
    with pytest.raises(ValueError, match=r"window_size \(3, 3\) must be within the token map \(3, 2\) of stage 1"):
        transformer("table", window_size=(3, 3), merge=True)


def test_shifts_over_time():
    """Every second layer shifts along every axis on which there is somewhere to go."""
    network = transformer("table", feature_size=(30, 20), window_size=(3, 3, 5), depths=(4, 2))
    assert [layer.times for layer in network.layers] == [
        [TimeWindow(3), TimeWindow(3, 1)] * 2,
        [TimeWindow(3), TimeWindow(3, 1)],
    ]
    assert [window.shift_hw for window in network.layers[1].windows] == [(0, 0), (1, 2)]
    assert network(torch.randn(4, 3, 30, 20), None, None, 1).shape == (4, 15, 10, 16)
    # A window of one frame is no window over time.
    assert [layer.times for layer in transformer("irpe", window_size=(1, 3, 2)).layers] == [None, None]


@pytest.mark.parametrize("grid", ["window", "image"])
def test_fresh_kprpe_over_time_changes_nothing(grid, inputs):
    features, keypoints, visibility = inputs
    plain, kprpe = (transformer(name, keypoint_grid=grid, window_size=(3, 3, 2)) for name in ("none", "kprpe"))
    missing, unexpected = kprpe.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected
    assert all(".position_bias.kprpe." in name for name in missing)
    with torch.no_grad():
        assert torch.equal(kprpe(features, keypoints, visibility, 1), plain(features, None, None, 1))
    # Every parameter learns, also where there is one frame and so no offset in time.
    kprpe(features, keypoints, visibility, 4).square().sum().backward()
    assert all(parameter.grad is not None for parameter in kprpe.parameters())


def test_stochastic_depth_drops_whole_sequences(rng):
    """Each branch is kept (and scaled) or dropped for all frames of a sequence together."""
    torch.manual_seed(0)
    sequences, frames, rate = 40, 3, 0.5
    block = SwinBlock(8, 2, Window((2, 2)), mlp_ratio=2.0, drop_path=rate).double()
    torch.nn.init.zeros_(block.mlp.fc2.weight)
    torch.nn.init.zeros_(block.mlp.fc2.bias)
    x = torch.randn(sequences * frames, 4, 4, 8, generator=rng, dtype=torch.float64)
    with torch.no_grad():
        branch = (block.eval()(x, None, sequences) - x).unflatten(0, (sequences, frames))
        found = (block.train()(x, None, sequences) - x).unflatten(0, (sequences, frames))
    kept = found.flatten(1).abs().amax(1) > 0
    torch.testing.assert_close(found[kept], branch[kept] / (1 - rate), rtol=1e-9, atol=1e-12)
    assert not found[~kept].any()
    assert 8 < kept.sum() < 32


def test_stochastic_depth_grows_from_zero():
    network = transformer("none", drop_path_rate=0.3)
    rates = [block.drop_path.drop_prob for layer in network.layers for block in layer.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window_size": (7, 2)}, r"window_size \(7, 2\) must be within the token map \(6, 4\)"),
        ({"window_size": (3, 0)}, r"window_size \(3, 0\) must be within the token map"),
        ({"window_size": (0, 3, 2)}, r"window_size must be \(rows, cols\) or \(frames, rows, cols\), all >= 1"),
        ({"window_size": (3,)}, r"window_size must be \(rows, cols\) or \(frames, rows, cols\).*got \(3,\)"),
        ({"window_size": (3, 7, 2)}, r"window_size \(3, 7, 2\) must be within the token map \(6, 4\)"),
        ({"num_heads": (2, 3)}, "stage 1: 16 channels cannot be split into 3 heads"),
        ({"feature_size": (13, 8)}, r"feature_size \(13, 8\) must be multiples of patch_size 2"),
        ({"num_heads": (2, 4, 8)}, r"depths \[2, 2\] and num_heads \[2, 4, 8\]"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        transformer("table", **settings)


def test_kprpe_needs_keypoints(inputs):
    with pytest.raises(ValueError, match="position_bias kprpe needs keypoints, got None"):
        transformer("kprpe")(inputs[0], None, None, 2)
