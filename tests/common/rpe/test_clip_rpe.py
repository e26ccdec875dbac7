"""KP-RPE over clips against its definition written as loops over clips, frames, windows, heads and pairs."""

import itertools

import pytest
import torch

from common.rpe import (
    ClipKeypointRPE,
    KeypointRPE,
    PositionBias,
    PositionBiasSettings,
    TableRPE,
    TimeWindow,
    Window,
    attention,
    bucket_ids,
    num_buckets,
)

FORMS = ["absolute", "relative", "multihead"]
HEADS, POINTS = 2, 2

# Grid of the feature map, one window and one window along time a layer, and frames of a clip.
PLACES = {
    "plain": ((2, 4), [Window((2, 2)), Window((2, 2))], [TimeWindow(2), TimeWindow(2)], 4),
    "shifted": ((4, 3), [Window((2, 3)), Window((2, 3), (1, 0))], [TimeWindow(3), TimeWindow(3, 1)], 6),
    "padded and shifted": ((3, 4), [Window((2, 3), (1, 1)), Window((2, 3))], [TimeWindow(3, 1), TimeWindow(3, 2)], 5),
    "shorter than the window": ((2, 3), [Window((2, 3)), Window((2, 2), (1, 1))], [TimeWindow(3), TimeWindow(3, 1)], 2),
    "one frame": ((2, 2), [Window((2, 1)), Window((2, 1))], [TimeWindow(3), TimeWindow(3, 1)], 1),
}


def filled(rng, num_frames=3, **settings):
    """Two layers with random numbers for their zeros, in float64."""
    rpe = ClipKeypointRPE(num_frames, **{"num_keypoints": POINTS, "num_heads": HEADS, "num_layers": 2, **settings})
    rpe = rpe.double()
    with torch.no_grad():
        for parameter in rpe.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng, dtype=torch.float64))
    return rpe


def walk(rng, clips, frames, points=POINTS):
    """Keypoints [N, T, L, 2] and visibilities [N, T, L]."""
    return (
        torch.rand(clips, frames, points, 2, generator=rng, dtype=torch.float64),
        0.1 + 0.9 * torch.rand(clips, frames, points, generator=rng, dtype=torch.float64),
    )


def definition(rpe, keypoints, visibility, layer, grid, window, time):
    """B [N, S, W, H, t n, t n] of one layer, number by number, and which queries are in frames of the clip."""
    form, method, ratio = rpe.rpe.form, rpe.rpe.method, rpe.rpe.ratio
    t, groups, buckets = rpe.num_frames, HEADS if form == "multihead" else 1, num_buckets(method, ratio)
    weight, constant = rpe.rpe.weight.tolist(), rpe.rpe.bias.tolist()
    clips, frames = keypoints.shape[:2]
    size, shift = (frames, 0) if frames <= time.size else time
    (rows, cols), (height, width), (down, right) = grid, window.size_hw, window.shift_hw
    padded = [-(-cells // side) * side for cells, side in ((frames, size), (rows, height), (cols, width))]
    corners = [(top, left) for top in range(0, padded[1], height) for left in range(0, padded[2], width)]
    n = height * width
    tables = bucket_ids(window.size_hw, method, ratio).tolist()
    bias = torch.zeros(clips, padded[0] // size, len(corners), HEADS, size * n, size * n, dtype=torch.float64)
    real = torch.zeros(bias.shape[1], size * n, dtype=torch.bool)
    for c, s, w, h in itertools.product(*(range(length) for length in bias.shape[:4])):
        for a in range(size):
            frame = (s * size + a + shift) % padded[0]
            if frame >= frames:
                continue
            points, seen = keypoints[c, frame].tolist(), visibility[c, frame].tolist()
            for i in range(n):
                real[s, a * n + i] = True
                row = (corners[w][0] + i // width + down) % padded[1]
                col = (corners[w][1] + i % width + right) % padded[2]
                centre = ((col + 0.5) / cols, (row + 0.5) / rows)
                for b in range(size):
                    offset = (0 if rpe.shared else layer * (2 * t - 1)) + (b - a) + t - 1
                    for j in range(n):
                        total = 0.0
                        for table in tables:
                            k = (offset * groups + (h if groups > 1 else 0)) * buckets + table[i][j]
                            total += constant[k]
                            for p, point in enumerate(points):
                                for axis in (0, 1):
                                    along = point[axis] if form == "absolute" else centre[axis] - point[axis]
                                    total += seen[p] * along * weight[k][2 * p + axis]
                        bias[c, s, w, h, a * n + i, b * n + j] = total
    return bias, real


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("form", FORMS)
def test_equals_the_definition(form, place, rng):
    grid, windows, times, frames = PLACES[place]
    turn = FORMS.index(form) + list(PLACES).index(place)
    rpe = filled(rng, form=form, shared=turn % 2 == 1, method=("product", "cross")[turn % 2])
    keypoints, visibility = walk(rng, 1 if frames > 4 else 2, frames)
    found = rpe(keypoints, grid, times, visibility, windows)
    everywhere = rpe(keypoints, grid, times, None, windows)
    in_window = rpe(keypoints, windows[0].size_hw, times, visibility)
    assert len(found) == len(everywhere) == len(in_window) == 2
    for layer, (window, time) in enumerate(zip(windows, times, strict=True)):
        expected, real = definition(rpe, keypoints, visibility, layer, grid, window, time)
        compare(found[layer].expand_as(expected), expected, real)
        ones = torch.ones_like(visibility)
        expected, real = definition(rpe, keypoints, ones, layer, grid, window, time)
        compare(everywhere[layer].expand_as(expected), expected, real)
        # A grid of the window's size is an image of one window.
        alone = Window(windows[0].size_hw)
        expected, real = definition(rpe, keypoints, visibility, layer, windows[0].size_hw, alone, time)
        compare(in_window[layer].expand_as(expected), expected, real)


def compare(found, expected, real):
    """Queries of frames alone: those of the padding may see anything finite."""
    assert found.isfinite().all()
    for window, queries in enumerate(real):
        of_frames = (bias[:, window][..., queries, :] for bias in (found, expected))
        torch.testing.assert_close(*of_frames, rtol=1e-11, atol=1e-11)


def test_every_frame_counts_for_its_own_queries_alone(rng):
    """Joints of one frame changed: the bias changes at that frame's queries, whatever the shift, and nowhere else."""
    times = [TimeWindow(3), TimeWindow(3, 1)]
    rpe = filled(rng)
    keypoints, _ = walk(rng, 2, 7)
    before = rpe(keypoints, (2, 2), times)
    for frame in range(6):
        changed = keypoints.clone()
        changed[1, frame] += 0.1
        after = rpe(changed, (2, 2), times)
        for layer, time in enumerate(times):
            where = (after[layer] - before[layer]).abs().amax((2, 3, 5)) > 1e-9  # [N, S, t n]
            place = (frame - time.shift) % 9
            expected = torch.zeros_like(where)
            expected[1, place // 3].view(3, 4)[place % 3] = True
            assert torch.equal(where, expected)


@pytest.mark.parametrize("form", FORMS)
def test_windows_of_one_frame_are_the_image_level(form, rng):
    clip = filled(rng, num_frames=1, form=form)
    image = KeypointRPE(POINTS, HEADS, 2, form).double()
    image.load_state_dict(clip.rpe.state_dict())
    keypoints, visibility = walk(rng, 2, 3)
    found = clip(keypoints, (2, 3), [TimeWindow()] * 2, visibility)
    expected = image(keypoints.flatten(0, 1), (2, 3), visibility.flatten(0, 1))
    for layer in range(2):
        bias = expected[layer].unflatten(0, (2, 3))[:, :, None]
        assert torch.equal(found[layer].expand_as(bias), bias)


@pytest.mark.parametrize("windows", [None, [Window((1, 2), (0, 1))]], ids=["window", "image"])
def test_gradcheck(windows, rng):
    rpe = filled(rng, num_frames=2, num_layers=1, num_heads=1, num_keypoints=1, method="euclidean", ratio=0.5)
    keypoints, visibility = (stream.requires_grad_() for stream in walk(rng, 1, 3, 1))

    def bias(points, seen, weight, offset):
        with torch.nn.utils.stateless._reparametrize_module(rpe, {"rpe.weight": weight, "rpe.bias": offset}):
            return rpe(points, (1, 2) if windows is None else (1, 3), [TimeWindow(2, 1)], seen, windows)[0]

    assert torch.autograd.gradcheck(bias, (keypoints, visibility, rpe.rpe.weight, rpe.rpe.bias))


def test_starts_at_zero_with_one_set_of_buckets_an_offset(rng):
    rpe = ClipKeypointRPE(3, 17, num_heads=4, num_layers=2)
    assert sum(parameter.numel() for parameter in rpe.parameters()) == 2 * 5 * 4 * 49 * 35
    assert sum(p.numel() for p in ClipKeypointRPE(3, 17, 4, 2, shared=True).parameters()) == 5 * 4 * 49 * 35
    keypoints, _ = walk(rng, 2, 4, 17)
    biases = rpe(keypoints.float(), (2, 3), [TimeWindow(3), TimeWindow(3, 1)])
    assert [list(bias.shape) for bias in biases] == [[2, 2, 1, 4, 18, 18]] * 2
    assert not any(bias.any() for bias in biases)
    with pytest.raises(IndexError):
        biases[2]


def test_keypoints_that_are_not_seen_may_be_anything(rng):
    rpe = filled(rng)
    keypoints, visibility = walk(rng, 1, 4)
    visibility[0, 2, 1] = 0
    times = [TimeWindow(3, 1)] * 2
    expected = rpe(keypoints, (2, 2), times, visibility)[0]
    keypoints[0, 2, 1] = float("nan")
    assert torch.equal(rpe(keypoints, (2, 2), times, visibility)[0], expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_frames": 0}, "num_frames must be >= 1, got 0"),
        ({"num_layers": 0}, "num_layers must be >= 1, got 0"),
        ({"form": "both"}, "form must be one of"),
    ],
)
def test_bad_settings(arguments, message):
    with pytest.raises(ValueError, match=message):
        ClipKeypointRPE(**{"num_frames": 2, "num_keypoints": 2, "num_heads": 2, **arguments})


def test_bad_inputs(rng):
    rpe = filled(rng)
    keypoints, visibility = walk(rng, 2, 4)
    times = [TimeWindow(3), TimeWindow(3, 1)]
    for wrong in (keypoints[0], keypoints[:, :, :1], keypoints[:, :0]):
        with pytest.raises(ValueError, match=r"keypoints must have shape \[N, T, 2, 2\], T >= 1, got"):
            rpe(wrong, (2, 2), times)
    with pytest.raises(ValueError, match=r"visibility must have shape \[2, 4, 2\], got \[2, 3, 2\]"):
        rpe(keypoints, (2, 2), times, visibility[:, 1:])
    with pytest.raises(ValueError, match="times must name one for each of 2 layers, got 1"):
        rpe(keypoints, (2, 2), times[:1])
    with pytest.raises(ValueError, match="windows must name one for each of 2 layers, got 3"):
        rpe(keypoints, (2, 2), times, windows=[Window((2, 2))] * 3)
    with pytest.raises(ValueError, match="times must span at most 3 frames"):
        rpe(keypoints, (2, 2), [TimeWindow(3), TimeWindow(4)])
    with pytest.raises(ValueError, match="are they in pixels"):
        rpe(keypoints * 50, (2, 2), times)[0]


def position_bias(name, rng, **settings):
    bias = PositionBias(PositionBiasSettings(position_bias=name, num_keypoints=2, **settings), HEADS, 4, 2, (2, 3),
                        num_frames=3)  # fmt: skip
    with torch.no_grad():
        for parameter in bias.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng))
    return bias.double()


@pytest.mark.parametrize("grid", ["window", "image"])
@pytest.mark.parametrize("name", ["none", "table", "kprpe"])
def test_position_bias(name, grid, rng):
    """Every encoding that windows over time may have goes into attention as it is."""
    bias = position_bias(name, rng, keypoint_grid=grid)
    windows, times = [Window((2, 3)), Window((2, 3), (1, 1))], [TimeWindow(3), TimeWindow(3, 1)]
    keypoints, visibility = walk(rng, 2, 5)
    query = torch.randn(2, 2, 4, HEADS, 18, 4, generator=rng, dtype=torch.float64)  # 2 x 4 windows of 5 x 4 x 6
    layers = bias((4, 6), keypoints, visibility, windows, times)
    outs = [attention(query, query, query, layer, implementation="explicit") for layer in layers]
    plain = attention(query, query, query)
    for layer, out in enumerate(outs):
        assert out.shape == query.shape
        assert bool((out - plain).abs().max() > 1e-3) is (name != "none"), layer
    if name == "kprpe":
        expected = (bias.kprpe(keypoints, (4, 6), times, visibility, windows) if grid == "image"
                    else bias.kprpe(keypoints, (2, 3), times, visibility))  # fmt: skip
        assert torch.equal(layers[1], expected[1])


def test_a_short_clip_takes_the_first_frames_of_the_table(rng):
    bias = position_bias("table", rng)
    windows = [Window((2, 3))] * 2
    times = [TimeWindow(3).within(2)] * 2
    table = TableRPE((3, 2, 3), HEADS).double()
    table.load_state_dict(bias.tables[1].state_dict())
    assert torch.equal(bias((2, 3), None, None, windows, times)[1], table()[:, :12, :12])


@pytest.mark.parametrize("name", ["irpe", "irpe_bias"])
def test_irpe_knows_no_time(name, rng):
    with pytest.raises(
        ValueError, match=f"position_bias must be none, table or kprpe in windows of 3 frames.*'{name}'"
    ):
        position_bias(name, rng)


def test_position_bias_without_what_it_needs(rng):
    keypoints, _ = walk(rng, 1, 3)
    windows, times = [Window((2, 3))] * 2, [TimeWindow(3)] * 2
    with pytest.raises(ValueError, match=r"windows of 3 frame\(s\) need windows and times"):
        position_bias("kprpe", rng)((2, 3), keypoints, None, windows)
    with pytest.raises(ValueError, match=r"windows of 1 frame\(s\) need no times"):
        PositionBias(PositionBiasSettings(), HEADS, 4, 2, (2, 3))((2, 3), keypoints[0], None, windows, times)
    with pytest.raises(ValueError, match="position_bias kprpe needs keypoints, got None"):
        position_bias("kprpe", rng)((2, 3), None, None, windows, times)
    with pytest.raises(ValueError, match="hold no extra tokens, got extra_tokens 1"):
        PositionBias(PositionBiasSettings(), HEADS, 4, 2, (2, 3), extra_tokens=1, num_frames=2)


def test_time_windows():
    assert TimeWindow(3, 1).within(4) == TimeWindow(3, 1)
    assert TimeWindow(3, 1).within(3) == TimeWindow(3)
    assert TimeWindow(3, 1).within(1) == TimeWindow(1)
    assert [TimeWindow(3).count(frames) for frames in (1, 3, 4, 6, 7)] == [1, 1, 2, 2, 3]
