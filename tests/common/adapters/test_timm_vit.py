"""timm's ViT and EVA with KP-RPE against the plain model in which softmax attention is written out with the biases."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F

from common import KeypointRPE, add_kprpe

LANDMARKS = 5


def definition(encoding):
    """The same encoding by its definition instead of the fast form."""
    direct = KeypointRPE(
        encoding.num_keypoints,
        encoding.num_heads,
        encoding.num_layers,
        form=encoding.form,
        shared=encoding.shared,
        method=encoding.method,
        ratio=encoding.ratio,
        extra_tokens=encoding.extra_tokens,
        implementation="direct",
    ).to(encoding.weight.dtype)
    direct.load_state_dict(encoding.state_dict())
    return direct


def with_biases(monkeypatch, plain, images, biases, attentions_a_block=1):
    """The plain model's output, its attention being softmax(q k^T / sqrt(d) + bias) v by hand, layer by layer."""
    calls: list[int] = []

    def attend(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False):
        logits = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
        if query.shape[-2] == key.shape[-2]:  # not the attention that pools
            logits = logits + biases[len(calls) // attentions_a_block]
            calls.append(1)
        return logits.softmax(-1) @ value

    with monkeypatch.context() as patch:
        patch.setattr(F, "scaled_dot_product_attention", attend)
        out = plain(images)
    assert len(calls) == len(biases) * attentions_a_block
    return out


def fused(model):
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = True
    return model


@pytest.mark.parametrize("form", ["multihead", "absolute"])
def test_equals_written_out_attention(vit, form, build, fill, batch, monkeypatch):
    plain = fused(build(vit).double())
    model = fill(add_kprpe(copy.deepcopy(plain), LANDMARKS, form=form))
    images, keypoints, visibility = batch(model)
    keypoints.requires_grad_()
    direct = definition(model.kprpe)
    rows, cols = model.patch_embed.grid_size
    biases = direct(keypoints, (rows, cols), visibility)
    tokens = rows * cols + model.num_prefix_tokens
    assert biases[0].shape == (2, 3, tokens, tokens)
    parallel = 2 if vit == "attention side by side" else 1
    expected = with_biases(monkeypatch, plain, images, biases, parallel)
    out = model(images, keypoints, visibility)
    torch.testing.assert_close(out, expected)
    assert (out - plain(images)).abs().max() > 1e-3 * out.abs().max()

    upstream = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    got = torch.autograd.grad((out * upstream).sum(), [keypoints, *model.kprpe.parameters()])
    wanted = torch.autograd.grad((expected * upstream).sum(), [keypoints, *direct.parameters()])
    for mine, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_prefix_tokens_come_first(build, fill, batch, monkeypatch):
    """Biases of patches with patches are those of an encoding that knows no other tokens."""
    plain = fused(build("class token and registers").double())
    model = fill(add_kprpe(copy.deepcopy(plain), LANDMARKS))
    encoding, extra = model.kprpe, model.num_prefix_tokens
    assert extra == 5
    patches = KeypointRPE(LANDMARKS, 3, 2).double()
    rows = {name: getattr(encoding, name).detach().unflatten(0, (2, 3, -1)) for name in ("weight", "bias")}
    with torch.no_grad():
        for name, row in rows.items():
            getattr(encoding, name).unflatten(0, (2, 3, -1))[:, :, patches.num_buckets :] = 0
            getattr(patches, name).copy_(row[:, :, : patches.num_buckets].flatten(0, 2))
    images, keypoints, _ = batch(model)
    biases = [F.pad(bias, (extra, 0, extra, 0)) for bias in patches(keypoints, model.patch_embed.grid_size)]
    expected = with_biases(monkeypatch, plain, images, biases)
    torch.testing.assert_close(model(images, keypoints), expected)


@pytest.mark.parametrize("what", ["class token", "distilled", "EVA-02"])
def test_another_resolution(what, build, fill, batch, monkeypatch):
    plain = fused(build(what, dynamic_img_size=True).double())
    model = fill(add_kprpe(copy.deepcopy(plain), LANDMARKS))
    side = model.patch_embed.patch_size[0]
    images, keypoints, _ = batch(model, (2 * side, 5 * side))
    biases = definition(model.kprpe)(keypoints, (2, 5))
    expected = with_biases(monkeypatch, plain, images, biases)
    torch.testing.assert_close(model(images, keypoints), expected)


def test_set_input_size(build, fill, batch, monkeypatch):
    plain = fused(build("registers, average pool").double())
    model = fill(add_kprpe(copy.deepcopy(plain), LANDMARKS))
    for each in (plain, model):
        each.set_input_size(img_size=(32, 64))
    images, keypoints, _ = batch(model, (32, 64))
    expected = with_biases(monkeypatch, plain, images, definition(model.kprpe)(keypoints, (2, 4)))
    torch.testing.assert_close(model(images, keypoints), expected)


def test_an_image_that_timm_pads(build, fill, batch):
    """As if the user had padded it, and stated the keypoints as fractions of the padded image."""
    model = fill(add_kprpe(build("class token", dynamic_img_size=True, dynamic_img_pad=True).double(), LANDMARKS))
    images, keypoints, _ = batch(model, (40, 50))
    padded = F.pad(images, (0, 14, 0, 8))
    moved = keypoints * torch.tensor([50 / 64, 40 / 48], dtype=keypoints.dtype)
    torch.testing.assert_close(model(images, keypoints), model(padded, moved))


def test_distilled_training_returns_both_heads(build, fill, batch):
    model = fill(add_kprpe(build("distilled"), LANDMARKS)).train()
    model.set_distilled_training()
    images, keypoints, _ = batch(model)
    first, second = model(images, keypoints)
    assert first.shape == second.shape == (2, 4)
