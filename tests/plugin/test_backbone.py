"""The SwinGait backbones: shapes, what confidences do, independence of frames, and its symmetry under a mirror.

The mirror test is the one that holds the whole chain of conventions together. With every weight made symmetric, a
mirrored silhouette with mirrored joints must give mirrored tokens; that needs x and y, left and right, query minus
key, the window's cells, the shift and the grid's centres all to be what they are said to be.
"""

import pytest
import torch

from common.keypoints import COCO_17, flip_keypoints
from plugin.backbone import SwinGait2DBackbone, SwinGait3DBackbone, translate_swingait_keys

SMALL = {
    "channels": (4, 6),
    "layers": (1, 1, 2, 2),
    "embed_dim": 16,
    "num_heads": (2, 4),
    "window_size": (3, 2),
    "mlp_ratio": 2.0,
}
SMALL_3D = {**SMALL, "window_size": (3, 3, 2)}


def small(rng, kind=SwinGait2DBackbone, **settings):
    """A small backbone in float64 with random weights everywhere, KP-RPE included."""
    base = SMALL if kind is SwinGait2DBackbone else SMALL_3D
    backbone = kind(**{**base, **settings}).double().eval()
    with torch.no_grad():
        for name, tensor in backbone.state_dict().items():
            if not tensor.is_floating_point():
                continue
            value = torch.randn(tensor.shape, generator=rng, dtype=torch.float64)
            if "kprpe" in name or "table" in name:
                tensor.copy_(value)
            elif name.endswith("running_var") or (name.endswith("weight") and tensor.ndim == 1):
                tensor.copy_(1 + 0.1 * value.abs())
            else:
                tensor.copy_(value * 0.3)
    return backbone


def walkers(rng, sequences=1, frames=2, height=64, width=44):
    """Silhouettes, and joints with confidences, float64."""
    blocks = torch.rand(sequences, frames, height // 4 + 1, width // 4 + 1, generator=rng) < 0.5
    silhouettes = blocks.double().repeat_interleave(4, -2).repeat_interleave(4, -1)[..., :height, :width]
    keypoints = torch.rand(sequences, frames, 17, 3, generator=rng, dtype=torch.float64)
    keypoints[..., 2] = 0.2 + 0.8 * keypoints[..., 2]
    return silhouettes, keypoints


@pytest.mark.parametrize("width", [44, 64])
@pytest.mark.parametrize("position_bias", ["none", "table", "irpe_bias", "irpe", "kprpe"])
def test_shapes(position_bias, width, rng):
    backbone = SwinGait2DBackbone(position_bias=position_bias).eval()
    silhouettes, keypoints = walkers(rng, 2, 3, 64, width)
    with torch.no_grad():
        tokens = backbone(silhouettes.float(), keypoints.float())
    assert tokens.shape == (2, backbone.out_channels, 3, 15, 10) == (2, 512, 3, 15, 10)
    assert torch.isfinite(tokens).all()


def test_number_of_parameters():
    """OpenGait's transformer with windows of [1, 3, 5] has 9,734,016; a KP-RPE has 35 numbers a bucket, head, layer."""
    count = {
        bias: sum(parameter.numel() for parameter in SwinGait2DBackbone(position_bias=bias).transformer.parameters())
        for bias in ("none", "table", "kprpe")
    }
    tables = 5 * 9 * (4 * 16 + 2 * 32)
    assert count["table"] == 9_734_016
    assert count["none"] == 9_734_016 - tables
    assert count["kprpe"] == count["none"] + 49 * 35 * (4 * 16 + 2 * 32)


@pytest.mark.parametrize("grid", ["window", "image"])
def test_fresh_kprpe_equals_no_bias(grid, rng):
    silhouettes, keypoints = walkers(rng)
    plain = SwinGait2DBackbone(**SMALL, position_bias="none").double().eval()
    kprpe = SwinGait2DBackbone(**SMALL, keypoint_grid=grid).double().eval()
    kprpe.load_state_dict(plain.state_dict(), strict=False)
    with torch.no_grad():
        assert torch.equal(kprpe(silhouettes, keypoints), plain(silhouettes))


def test_confidence_as_weight(rng):
    """The weight is the confidence itself, cut to 1, and 0 below min_confidence."""
    backbone = small(rng, confidence="weight", min_confidence=0.3)
    silhouettes, keypoints = walkers(rng)
    keypoints[0, 0, :5, 2] = torch.tensor([0.29, 0.3, 0.31, 1.7, 0.0])
    expected = keypoints[..., 2].flatten(0, 1).clone()
    for frame in expected:
        for joint, score in enumerate(frame.tolist()):
            frame[joint] = 0.0 if score < 0.3 else min(score, 1.0)
    _, visibility = backbone._split_keypoints(keypoints, (1, 2))
    assert torch.equal(visibility, expected)
    with torch.no_grad():
        out = backbone(silhouettes, keypoints)
        half = keypoints.clone()
        half[..., 2] /= 2
        assert (backbone(silhouettes, half) - out).abs().max() > 1e-3


def test_confidence_as_threshold(rng):
    backbone = small(rng, confidence="threshold", min_confidence=0.3)
    silhouettes, keypoints = walkers(rng)
    keypoints[..., 2] = torch.where(torch.rand(1, 2, 17, generator=rng) < 0.3, 0.29, 0.3)
    certain = keypoints.clone()
    certain[..., 2] = torch.where(keypoints[..., 2] < 0.3, 0.0, 0.97)
    all_seen = keypoints.clone()
    all_seen[..., 2] = 1
    with torch.no_grad():
        out = backbone(silhouettes, keypoints)
        assert torch.equal(out, backbone(silhouettes, certain))
        assert (out - backbone(silhouettes, all_seen)).abs().max() > 1e-3
        without = backbone(silhouettes, all_seen[..., :2])
        torch.testing.assert_close(backbone(silhouettes, all_seen), without, rtol=1e-11, atol=1e-11)


def test_confidence_ignored(rng):
    backbone = small(rng, confidence="ignore")
    silhouettes, keypoints = walkers(rng)
    missing = keypoints.clone()
    missing[..., :6, 2] = 0
    with torch.no_grad():
        expected = backbone(silhouettes, keypoints[..., :2])
        assert torch.equal(backbone(silhouettes, keypoints), expected)
        assert torch.equal(backbone(silhouettes, missing), expected)


@pytest.mark.parametrize("garbage", [0.0, float("nan"), 1e9, -float("inf")])
@pytest.mark.parametrize("confidence", ["weight", "threshold"])
def test_missing_joints_may_be_anywhere(confidence, garbage, rng):
    backbone = small(rng, confidence=confidence)
    silhouettes, keypoints = walkers(rng)
    keypoints[..., ::3, 2] = torch.tensor([0.0, 0.05, 0.0, 0.099, 0.0, 0.0])
    dirty = keypoints.clone()
    dirty[..., ::3, :2] = garbage
    results = []
    for points in (keypoints, dirty):
        backbone.zero_grad()
        out = backbone(silhouettes, points)
        out.square().sum().backward()
        results.append([out.detach(), backbone.transformer.layers[0].position_bias.kprpe.weight.grad.clone()])
    for clean, found in zip(*results, strict=True):
        assert torch.equal(clean, found)


@pytest.mark.parametrize("confidence", ["weight", "threshold"])
def test_a_confidence_that_is_no_number_means_missing(confidence, rng):
    backbone = small(rng, confidence=confidence)
    silhouettes, keypoints = walkers(rng)
    missing = keypoints.clone()
    missing[..., 4, 2] = 0
    keypoints[..., 4, 2] = float("nan")
    with torch.no_grad():
        assert torch.equal(backbone(silhouettes, keypoints), backbone(silhouettes, missing))


def test_frames_do_not_see_each_other(rng):
    backbone = small(rng, keypoint_grid="image")
    silhouettes, keypoints = walkers(rng, sequences=2, frames=3)
    with torch.no_grad():
        tokens = backbone(silhouettes, keypoints)
        for sequence in range(2):
            for frame in range(3):
                alone = (slice(sequence, sequence + 1), slice(frame, frame + 1))
                torch.testing.assert_close(
                    backbone(silhouettes[alone], keypoints[alone])[0, :, 0],
                    tokens[sequence, :, frame],
                    rtol=1e-11,
                    atol=1e-11,
                )
        changed = silhouettes.clone(), keypoints.clone()
        changed[0][1, 2], changed[1][1, 2] = 1 - silhouettes[1, 2], keypoints[0, 0]
        others = backbone(*changed)
    torch.testing.assert_close(others[0], tokens[0], rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(others[1, :, :2], tokens[1, :, :2], rtol=1e-11, atol=1e-11)
    assert (others[1, :, 2] - tokens[1, :, 2]).abs().max() > 0.01


def make_symmetric(backbone):
    """Every weight its own mirror image."""
    with torch.no_grad():
        for module in backbone.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.weight.copy_((module.weight + module.weight.flip(-1)) / 2)
        for stage in backbone.transformer.layers:
            for rpe in stage.position_bias.tables:
                table = rpe.relative_position_bias_table
                grid = table.view(-1, 2 * rpe.window_size[-1] - 1, table.shape[1])
                table.copy_(((grid + grid.flip(1)) / 2).reshape_as(table))
            kprpe = stage.position_bias.kprpe
            kprpe = getattr(kprpe, "rpe", kprpe)
            if kprpe is not None:
                side = 7  # 7 x 7 buckets of the product method at 1.9, rows times columns
                weight = kprpe.weight.view(-1, side, side, 17, 2)
                mirrored = weight.flip(2)[:, :, :, COCO_17.flip_order] * torch.tensor([-1.0, 1.0]).double()
                kprpe.weight.copy_(((weight + mirrored) / 2).reshape_as(kprpe.weight))
                offset = kprpe.bias.view(-1, side, side)
                kprpe.bias.copy_(((offset + offset.flip(2)) / 2).flatten())


@pytest.mark.parametrize("kind", [SwinGait2DBackbone, SwinGait3DBackbone])
@pytest.mark.parametrize(("position_bias", "grid"), [("table", "window"), ("kprpe", "window"), ("kprpe", "image")])
def test_a_mirrored_walker_gives_mirrored_tokens(position_bias, grid, kind, rng):
    backbone = small(rng, kind, position_bias=position_bias, keypoint_grid=grid)
    # Strided convolutions see a mirror image only in an odd width; windows of two cells are shifted by half of it.
    silhouettes, keypoints = walkers(rng, width=45)
    mirrored = silhouettes.flip(-1)

    def difference(points, mirrored_points):
        with torch.no_grad():
            tokens = backbone(silhouettes, points)
            return (backbone(mirrored, mirrored_points).flip(-1) - tokens).abs().max() / tokens.abs().max()

    right = flip_keypoints(keypoints, COCO_17)
    assert difference(keypoints, right) > 0.01  # random weights are not symmetric
    make_symmetric(backbone)
    assert difference(keypoints, right) < 1e-11
    if position_bias == "table":
        return
    not_swapped = keypoints.clone()
    not_swapped[..., 0] = 1 - keypoints[..., 0]
    not_mirrored = keypoints[..., COCO_17.flip_order, :]
    assert difference(keypoints, not_swapped) > 1e-3
    assert difference(keypoints, not_mirrored) > 1e-3
    exchanged = keypoints[..., [1, 0, 2]]
    assert difference(keypoints, right[..., [1, 0, 2]]) > 1e-3
    assert difference(exchanged, right[..., [1, 0, 2]]) > 1e-3


def test_keys_of_opengait(rng):
    """Frame-wise wrappers, one-frame kernels and window buffers go; own names pass; heads keep their names."""
    state = {
        "layer0.forward_block.0.weight": torch.zeros(4, 1, 3, 3),
        "layer2.forward_block.1.bn1.weight": torch.zeros(6),
        "transformer.patch_embed.proj.weight": torch.zeros(16, 6, 1, 2, 2),
        "transformer.layers.0.blocks.1.attn.relative_position_bias_table": torch.zeros(45, 2),
        "transformer.layers.0.blocks.1.attn.relative_position_index": torch.zeros(15, 15, dtype=torch.long),
        "FCs.fc_bin": torch.zeros(16, 512, 256),
    }
    shapes = {name: tuple(value.shape) for name, value in translate_swingait_keys(state, "Backbone.").items()}
    assert shapes == {
        "Backbone.layer0.0.weight": (4, 1, 3, 3),
        "Backbone.layer2.1.bn1.weight": (6,),
        "Backbone.transformer.patch_embed.proj.weight": (16, 6, 2, 2),
        "Backbone.transformer.layers.0.position_bias.tables.1.relative_position_bias_table": (45, 2),
        "FCs.fc_bin": (16, 512, 256),
    }
    own = small(rng, position_bias="table").state_dict()
    again = translate_swingait_keys(own)
    assert list(again) == list(own)
    assert all(torch.equal(again[name], own[name]) for name in own)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"position_bias": "rope"}, "position_bias must be one of none, table, irpe_bias, irpe, kprpe, got 'rope'"),
        ({"keypoint_grid": "patch"}, "keypoint_grid must be one of window, image, got 'patch'"),
        ({"confidence": "drop"}, "confidence must be one of weight, threshold, ignore, got 'drop'"),
        ({"channels": (4,)}, r"need 2 channels and 4 layers, got \[4\]"),
        ({"layers": (1, 1, 1)}, r"need 2 channels and 4 layers.*\[1, 1, 1\]"),
        ({"window_size": (16, 2)}, "must be within the token map"),
        ({"num_heads": (3, 4)}, "cannot be split into 3 heads"),
        ({"method": "l1"}, "method must be one of"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        SwinGait2DBackbone(**{**SMALL, **settings})


def test_bad_inputs(rng):
    backbone = small(rng)
    silhouettes, keypoints = walkers(rng)
    with pytest.raises(ValueError, match="position_bias kprpe needs keypoints, got None"):
        backbone(silhouettes)
    with pytest.raises(ValueError, match=r"silhouettes must have shape \[N, T, h, w\], got \[1, 2, 1, 64, 44\]"):
        backbone(silhouettes[:, :, None], keypoints)
    for wrong in (keypoints[:, :1], keypoints[:, :, :16], keypoints[..., :1], keypoints[0]):
        with pytest.raises(ValueError, match=r"keypoints must have shape \[1, 2, 17, 2\] or \[1, 2, 17, 3\]"):
            backbone(silhouettes, wrong)
    with pytest.raises(ValueError, match="are they in pixels"):
        backbone(silhouettes, keypoints * torch.tensor([44.0, 64.0, 1.0]).double())


@pytest.mark.parametrize("position_bias", ["none", "kprpe"])
def test_long_sequences_are_evaluated_in_stretches(position_bias, rng, monkeypatch):
    backbone = small(rng, position_bias=position_bias)
    silhouettes, keypoints = walkers(rng, 2, 5)
    whole = backbone(silhouettes, keypoints)
    monkeypatch.setattr("plugin.backbone._FRAMES_AT_ONCE", 3)
    counts = []
    backbone.layer0.register_forward_hook(lambda module, args, out: counts.append(len(out)))
    torch.testing.assert_close(backbone(silhouettes, keypoints), whole)
    assert counts == [3, 3, 3, 1]


def test_3d_shapes_and_parameters(rng):
    """OpenGait's transformer has 9,757,056; KP-RPE has 35 numbers a bucket, offset in time, head and layer."""
    silhouettes, keypoints = walkers(rng, 2, 4)
    count = {}
    for position_bias in ("none", "table", "kprpe"):
        backbone = SwinGait3DBackbone(position_bias=position_bias).eval()
        count[position_bias] = sum(parameter.numel() for parameter in backbone.transformer.parameters())
        with torch.no_grad():
            tokens = backbone(silhouettes.float(), keypoints.float())
        assert tokens.shape == (2, 512, 4, 15, 10)
        assert torch.isfinite(tokens).all()
    assert count["table"] == 9_757_056
    assert count["none"] == 9_757_056 - 5 * 5 * 9 * (4 * 16 + 2 * 32)
    assert count["kprpe"] == count["none"] + 5 * 49 * 35 * (4 * 16 + 2 * 32)


@pytest.mark.parametrize("grid", ["window", "image"])
def test_3d_frames_see_neighbours_of_their_own_sequence(grid, rng):
    """Sequences side by side, sequences end to end, and each alone give the same; what is in one stays in it."""
    backbone = small(rng, SwinGait3DBackbone, keypoint_grid=grid)
    lengths = [4, 1, 5]
    silhouettes, keypoints = walkers(rng, 1, sum(lengths))
    with torch.no_grad():
        together = backbone(silhouettes, keypoints, torch.tensor([lengths]))
        parts = zip(together.split(lengths, 2), silhouettes.split(lengths, 1), keypoints.split(lengths, 1), strict=True)
        for tokens, *streams in parts:
            torch.testing.assert_close(tokens, backbone(*streams), rtol=1e-11, atol=1e-11)
        pair = silhouettes[:, :8].unflatten(1, (2, 4))[0], keypoints[:, :8].unflatten(1, (2, 4))[0]
        side_by_side = backbone(*pair)
        torch.testing.assert_close(side_by_side[:1], together[:, :, :4], rtol=1e-11, atol=1e-11)
        changed = pair[0].clone(), pair[1].clone()
        changed[0][1, 0], changed[1][1, 0] = 1 - pair[0][1, 0], pair[1][0, 1]
        others = backbone(*changed)
    torch.testing.assert_close(others[0], side_by_side[0], rtol=1e-11, atol=1e-11)
    assert ((others[1] - side_by_side[1]).abs().amax((0, 2, 3)) > 1e-3).all()


@pytest.mark.parametrize("grid", ["window", "image"])
def test_3d_a_walk_backwards_gives_tokens_backwards(grid, rng):
    """With weights that are symmetric in time. Each frame has its own joints, or the order of both would not matter."""
    backbone = small(rng, SwinGait3DBackbone, keypoint_grid=grid)
    silhouettes, keypoints = walkers(rng, 1, 3)  # as long as the window: no shift

    def difference(points):
        with torch.no_grad():
            tokens, back = backbone(silhouettes, keypoints), backbone(silhouettes.flip(1), points)
        return (back.flip(2) - tokens).abs().max() / tokens.abs().max()

    assert difference(keypoints.flip(1)) > 0.01
    with torch.no_grad():
        for block in backbone.layer2:
            block.shortcut3d.weight.copy_((block.shortcut3d.weight + block.shortcut3d.weight.flip(2)) / 2)
        for stage in backbone.transformer.layers:
            rpe = stage.position_bias.kprpe
            for parameter in rpe.parameters():
                offsets = parameter.view(rpe.num_layers, rpe.num_offsets, -1)
                parameter.copy_(((offsets + offsets.flip(1)) / 2).view_as(parameter))
    assert difference(keypoints.flip(1)) < 1e-11
    assert difference(keypoints) > 1e-3
    assert difference(keypoints[:, [2, 0, 1]]) > 1e-3


def test_3d_bad_settings_and_inputs(rng):
    with pytest.raises(
        ValueError, match=r"window_size must be \(frames, rows, cols\) for SwinGait3DBackbone.*\(3, 2\)"
    ):
        SwinGait3DBackbone(**SMALL)
    with pytest.raises(ValueError, match=r"window_size must be \(rows, cols\) for SwinGait2DBackbone.*\(3, 3, 2\)"):
        SwinGait2DBackbone(**SMALL_3D)
    with pytest.raises(ValueError, match=r"position_bias must be none, table or kprpe in windows of 3 frames.*'irpe'"):
        SwinGait3DBackbone(**SMALL_3D, position_bias="irpe")
    backbone = small(rng, SwinGait3DBackbone)
    silhouettes, keypoints = walkers(rng, 2, 3)
    for lengths, streams in (([3], (silhouettes, keypoints)), ([3, 1], (silhouettes[:1], keypoints[:1]))):
        with pytest.raises(ValueError, match=r"seqL must be lengths >= 1 of sequences that lie end to end"):
            backbone(*streams, torch.tensor([lengths]))
    with pytest.raises(ValueError, match="seqL must be lengths >= 1"):
        backbone(silhouettes[:1], keypoints[:1], torch.tensor([[0, 3]]))


def test_keys_of_pseudo_3d_blocks():
    """The names of 2D blocks; kernels over one frame or one place lose that axis."""
    state = {
        "layer2.0.conv1.forward_block.0.weight": torch.zeros(6, 4, 3, 3),
        "layer2.0.conv1.forward_block.1.running_mean": torch.zeros(6),
        "layer2.0.conv2.forward_block.0.weight": torch.zeros(6, 6, 3, 3),
        "layer2.0.conv2.forward_block.1.weight": torch.zeros(6),
        "layer2.0.shortcut3d.weight": torch.zeros(6, 6, 3, 1, 1),
        "layer2.0.sbn.bias": torch.zeros(6),
        "layer2.0.downsample.0.weight": torch.zeros(6, 4, 1, 1, 1),
    }
    shapes = {name: tuple(value.shape) for name, value in translate_swingait_keys(state).items()}
    assert shapes == {
        "layer2.0.conv1.weight": (6, 4, 3, 3),
        "layer2.0.bn1.running_mean": (6,),
        "layer2.0.conv2.weight": (6, 6, 3, 3),
        "layer2.0.bn2.weight": (6,),
        "layer2.0.shortcut3d.weight": (6, 6, 3, 1),
        "layer2.0.sbn.bias": (6,),
        "layer2.0.downsample.0.weight": (6, 4, 1, 1),
    }
    own = SwinGait3DBackbone(**SMALL_3D).state_dict()
    ours = {name: tuple(value.shape) for name, value in own.items()}
    assert all(ours[name] == shape for name, shape in shapes.items())
    assert list(translate_swingait_keys(own)) == list(own)
