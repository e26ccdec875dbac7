"""The vision transformer: class token, resolution, precision, gradients, errors.

Numbers are compared with the authors' networks in tests/face/models/test_vit_parity.py.
"""

import pytest
import torch
import torch.nn.functional as F

from common.rpe import PositionBiasSettings
from common.vit import VisionTransformer

ENCODINGS = {
    "none": PositionBiasSettings(position_bias="none"),
    "table": PositionBiasSettings(position_bias="table"),
    "irpe_bias": PositionBiasSettings(position_bias="irpe_bias", irpe_on="qk", method="cross"),
    "irpe": PositionBiasSettings(position_bias="irpe", irpe_on="qkv", irpe_per_head=True),
    "kprpe": PositionBiasSettings(position_bias="kprpe", num_keypoints=4),
    "kprpe_absolute": PositionBiasSettings(position_bias="kprpe", num_keypoints=4, form="absolute", shared=True),
}
SIZES = {"image_hw": (8, 12), "patch_hw": (4, 4), "embed_dim": 8, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0}


def build(rng, encoding="kprpe", **settings):
    """A network of 2 x 3 patches, every weight of it random."""
    model = VisionTransformer(**{**SIZES, "position_bias": ENCODINGS[encoding], **settings})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.5, generator=rng)
        for block in model.blocks:
            block.mlp.fc1.weight *= 10  # beyond 6, where ReLU6 cuts
    return model.double().eval()


def batch(rng, image_hw=(8, 12)):
    images = torch.randn(3, 3, *image_hw, generator=rng, dtype=torch.float64)
    return images, torch.rand(3, 4, 2, generator=rng, dtype=torch.float64)


def forward_by_hand(model, images, keypoints):
    """The network written out, one image and one head at a time, KP-RPE or no encoding."""
    grid_hw = (images.shape[2] // 4, images.shape[3] // 4)
    biases = model.position_bias(grid_hw, keypoints)
    dim, heads = model.embed_dim, SIZES["num_heads"]
    width = dim // heads
    outputs = []
    for index, image in enumerate(images):
        patches = [
            image[:, row : row + 4, col : col + 4].flatten() @ model.patch_embed.proj.weight.flatten(1).T
            for row in range(0, image.shape[1], 4)
            for col in range(0, image.shape[2], 4)
        ]
        x = torch.stack(patches) + model.patch_embed.proj.bias
        if model.cls_token is not None:
            x = torch.cat([model.cls_token[0], x])
        if model.pos_embed is not None:
            x = x + model.pos_embed[0]
        for block, bias in zip(model.blocks, biases, strict=True):
            qkv = block.attn.qkv(block.norm1(x))
            attended = []
            for head in range(heads):
                query, key, value = (
                    qkv[:, part * dim + head * width : part * dim + (head + 1) * width] for part in range(3)
                )
                logits = query @ key.T / width**0.5
                if bias is not None:
                    logits = logits + bias.tensor()[index, head]
                attended.append(logits.softmax(-1) @ value)
            x = x + block.attn.proj(torch.cat(attended, dim=-1))
            hidden = block.mlp.fc1(block.norm2(x)).clamp(0, 6)
            x = x + block.mlp.fc2(hidden)
        outputs.append(F.layer_norm(x, (dim,), model.norm.weight, model.norm.bias))
    return torch.stack(outputs)


@pytest.mark.parametrize("settings", [{}, {"class_token": True}, {"absolute": False}, {"qkv_bias": True}])
@pytest.mark.parametrize("encoding", ["none", "kprpe"])
def test_equals_the_network_written_out(encoding, settings, rng):
    model = build(rng, encoding, **settings)
    images, keypoints = batch(rng)
    with torch.no_grad():
        torch.testing.assert_close(model(images, keypoints), forward_by_hand(model, images, keypoints))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_class_token_stands_first_and_has_no_position(encoding, rng):
    model = build(rng, encoding, class_token=True)
    assert model.extra_tokens == 1
    assert model.pos_embed.shape == (1, 1 + 6, 8)
    images, keypoints = batch(rng)
    out = model(images, keypoints)
    assert out.shape == (3, 7, 8)
    # What reaches the class token does not depend on the order of the patches, if nothing else gives them a position.
    free = build(rng, "none", class_token=True, absolute=False)
    patches = images.unflatten(2, (2, 4)).unflatten(4, (3, 4))  # [B, C, 2, 4, 3, 4]
    moved = patches.flip(2, 4).flatten(4, 5).flatten(2, 3)
    torch.testing.assert_close(free(images)[:, 0], free(moved)[:, 0])
    torch.testing.assert_close(free(images)[:, 1:], free(moved)[:, 1:].flip(1))


@pytest.mark.parametrize("encoding", [name for name in ENCODINGS if name != "table"])
def test_another_resolution_without_the_absolute_encoding(encoding, rng):
    model = build(rng, encoding, absolute=False, class_token=True)
    assert model.pos_embed is None
    for image_hw in ((8, 12), (16, 8), (4, 4)):
        images, keypoints = batch(rng, image_hw)
        assert model(images, keypoints).shape == (3, 1 + image_hw[0] * image_hw[1] // 16, 8)


def test_the_table_is_bound_to_the_resolution(rng):
    model = build(rng, "table", absolute=False)
    with pytest.raises(ValueError, match=r"built for \(2, 3\) positions, got \(3, 2\)"):
        model(batch(rng, (12, 8))[0])


@pytest.mark.parametrize("implementation", ["auto", "fused", "explicit", "compact"])
def test_gradients_reach_the_keypoints(implementation, rng):
    model = build(rng, implementation=implementation, class_token=True)
    images, keypoints = batch(rng)
    images, keypoints = images[:1], keypoints[:1].requires_grad_()
    assert torch.autograd.gradcheck(lambda points: model(images, points).sum(1), keypoints)


def test_half_precision_ends_in_float32(rng):
    model = build(rng).float()
    images, keypoints = (value.float() for value in batch(rng))
    expected = model(images, keypoints)
    with torch.autocast("cpu", torch.bfloat16):
        found = model(images, keypoints)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=0.3)
    assert model.double()(*batch(rng)).dtype == torch.float64


def test_stochastic_depth_grows_from_none_at_the_first_block():
    model = VisionTransformer(**{**SIZES, "depth": 3}, drop_path=0.2)
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for block in model.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2])


def test_without_settings_there_is_no_position_bias(rng):
    model = VisionTransformer(**SIZES).eval()
    assert not list(model.position_bias.parameters())
    images, keypoints = (value.float() for value in batch(rng))
    assert torch.equal(model(images), model(images, keypoints))


def test_models_that_differ_in_the_encoding_start_alike():
    """Nothing else of the random numbers drawn depends on it."""
    states = []
    for encoding in ENCODINGS:
        torch.manual_seed(3)
        model = VisionTransformer(**SIZES, position_bias=ENCODINGS[encoding])
        states.append({name: value for name, value in model.state_dict().items() if "position_bias" not in name})
    for state in states[1:]:
        assert state.keys() == states[0].keys()
        assert all(torch.equal(value, states[0][name]) for name, value in state.items())


def test_bad_settings_and_inputs(rng):
    with pytest.raises(ValueError, match="embed_dim 8 cannot be split into 3 heads"):
        VisionTransformer(**{**SIZES, "num_heads": 3})
    for image_hw in ((8, 13), (6, 12), (0, 12)):
        with pytest.raises(ValueError, match=r"pixels cannot be cut into patches of \(4, 4\)"):
            VisionTransformer(**{**SIZES, "image_hw": image_hw})
    model = build(rng, absolute=False)
    images, keypoints = batch(rng)
    with pytest.raises(ValueError, match=r"images of \(8, 11\) pixels cannot be cut"):
        model(images[..., :-1], keypoints)
    with pytest.raises(ValueError, match=r"\[B, 3, h, w\], got \[3, 8, 12\]"):
        model(images[:, 0], keypoints)
    with pytest.raises(ValueError, match="kprpe needs keypoints, got None"):
        model(images)
    with pytest.raises(ValueError, match=r"\[B, 4, 2\], got \[3, 2, 2\]"):
        model(images, keypoints[:, :2])
    with pytest.raises(ValueError, match="implementation must be one of"):
        build(rng, implementation="flash")(images, keypoints)


@pytest.mark.parametrize("absolute", [True, False])
def test_the_residual_stream_is_float32_under_autocast(absolute):
    model = VisionTransformer((8, 8), (4, 4), embed_dim=8, depth=2, num_heads=2, absolute=absolute)
    seen = []
    for block in model.blocks:
        block.register_forward_hook(lambda module, args, out: seen.append(out.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        model(torch.zeros(1, 3, 8, 8))
    assert seen == [torch.float32] * 2
