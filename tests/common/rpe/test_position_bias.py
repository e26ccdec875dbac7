"""One setting that names the encoding: every name, in images and in windows."""

import pytest
import torch

from common.rpe import PositionBias, PositionBiasSettings, Window, attention
from common.rpe.position_bias import PositionBiasName

NAMES = PositionBiasName.__args__
BATCH, HEADS, CHANNELS, LAYERS = 2, 2, 4, 2


def build(name, rng, size_hw, extra_tokens=0, **settings):
    bias = PositionBias(
        PositionBiasSettings(position_bias=name, **settings), HEADS, CHANNELS, LAYERS, size_hw, extra_tokens
    )
    with torch.no_grad():
        for parameter in bias.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng))
    return bias


@pytest.fixture
def points(rng):
    return torch.rand(BATCH, 5, 2, generator=rng), torch.rand(BATCH, 5, generator=rng)


@pytest.mark.parametrize("extra_tokens", [0, 1])
@pytest.mark.parametrize("name", NAMES)
def test_image_level(name, extra_tokens, points, rng):
    """Every encoding changes attention, layer by layer differently, and trains."""
    bias = build(name, rng, (3, 4), extra_tokens)
    qkv = [torch.randn(BATCH, HEADS, 12 + extra_tokens, CHANNELS, generator=rng) for _ in range(3)]
    outs = [attention(*qkv, layer) for layer in bias((3, 4), *points)]
    assert len(outs) == LAYERS
    if name == "none":
        assert not list(bias.parameters())
        assert all(torch.equal(out, attention(*qkv)) for out in outs)
        return
    assert (outs[0] - attention(*qkv)).abs().max() > 1e-3
    assert (outs[0] - outs[1]).abs().max() > 1e-3
    sum(out.square().sum() for out in outs).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in bias.parameters())


@pytest.mark.parametrize("grid", ["window", "image"])
@pytest.mark.parametrize("name", NAMES)
def test_window_level(name, grid, points, rng):
    bias = build(name, rng, (2, 3), keypoint_grid=grid)
    windows = [Window((2, 3)), Window((2, 3), (1, 1))]
    query = torch.randn(BATCH, 4, HEADS, 6, CHANNELS, generator=rng)  # 4 windows of a 4 x 6 map
    outs = [attention(query, query, query, layer) for layer in bias((4, 6), *points, windows)]
    assert [out.shape for out in outs] == [query.shape] * LAYERS
    same_in_all = torch.stack([outs[0][:, 0], outs[0][:, 3]])
    twice = query.clone()
    twice[:, 3] = twice[:, 0]
    again = attention(twice, twice, twice, bias((4, 6), *points, windows)[0])
    # Equal windows get equal outputs, unless their place in the image counts.
    assert torch.allclose(again[:, 0], again[:, 3], atol=1e-5) is not (name == "kprpe" and grid == "image")
    assert same_in_all.isfinite().all()


def test_window_grid_takes_the_window_as_the_image(points, rng):
    bias = build("kprpe", rng, (2, 3), keypoint_grid="window")
    windows = [Window((2, 3)), Window((2, 3), (1, 1))]
    found = bias((4, 6), *points, windows)
    expected = bias.kprpe(points[0], (2, 3), points[1])
    for layer in range(LAYERS):
        assert torch.equal(found[layer], expected[layer][:, None])
    assert [bias.shape for bias in found[:2]] == [(BATCH, 1, HEADS, 6, 6)] * 2


def test_the_table_is_bound_to_its_size_and_the_others_are_not(points, rng):
    with pytest.raises(ValueError, match=r"the table was built for \(3, 4\) positions, got \(4, 4\)"):
        build("table", rng, (3, 4))((4, 4))
    for name in ("irpe", "irpe_bias", "kprpe"):
        query = torch.randn(BATCH, HEADS, 20, CHANNELS, generator=rng)
        assert attention(query, query, query, build(name, rng, (3, 4))((4, 5), *points)[0]).isfinite().all()


def test_bad_settings(points, rng):
    with pytest.raises(
        ValueError, match="position_bias must be one of none, table, irpe_bias, irpe, kprpe, got 'rope'"
    ):
        PositionBiasSettings(position_bias="rope")
    with pytest.raises(ValueError, match="keypoint_grid must be one of window, image, got 'patch'"):
        PositionBiasSettings(keypoint_grid="patch")
    with pytest.raises(ValueError, match="irpe_on: bias mode encodes queries and keys, not values, got 'qkv'"):
        PositionBiasSettings(position_bias="irpe_bias", irpe_on="qkv")
    with pytest.raises(ValueError, match="position_bias kprpe needs keypoints, got None"):
        build("kprpe", rng, (3, 4))((3, 4))
