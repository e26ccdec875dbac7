"""timm's Swin and Swin V2 with KP-RPE against windows cut, shifted, padded and attended to by hand, token by token."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from common import add_kprpe
from common.rpe import bucket_ids

LANDMARKS = 5


def encoding_by_definition(encoding, layer, keypoints, visibility, centres, size_hw):
    """B_ij = f(P)[i, d(i, j)] of one window, [B, H, n, n]; centres [n, 2] of its queries."""
    heads = encoding.num_heads if encoding.form == "multihead" else 1
    layers = 1 if encoding.shared else encoding.num_layers
    weight = encoding.weight.view(layers, heads, -1, LANDMARKS, 2)[0 if encoding.shared else layer]
    offset = encoding.bias.view(layers, heads, -1)[0 if encoding.shared else layer]
    if encoding.form == "absolute":
        seen = keypoints[:, None].expand(-1, len(centres), -1, -1)
    else:
        seen = centres[None, :, None] - keypoints[:, None]
    seen = seen * visibility[:, None, :, None]
    values = torch.einsum("bnlc,gklc->bgnk", seen, weight) + offset[:, None]
    ids = bucket_ids(size_hw, encoding.method, encoding.ratio)[0]
    return values.gather(-1, ids.expand(*values.shape[:2], -1, -1))


def queries_keys_values(attn, tokens):
    """Tokens [B, n, C] to scaled queries, keys and values [B, H, n, d]."""
    if hasattr(attn, "logit_scale"):
        bias = torch.cat([attn.q_bias, torch.zeros_like(attn.q_bias), attn.v_bias])
        qkv = tokens @ attn.qkv.weight.T + bias
    else:
        qkv = attn.qkv(tokens)
    query, key, value = qkv.unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
    if hasattr(attn, "logit_scale"):
        return (
            F.normalize(query, dim=-1) * attn.logit_scale.clamp(max=math.log(100)).exp(),
            F.normalize(key, dim=-1),
            value,
        )
    return query / math.sqrt(query.shape[-1]), key, value


def own_bias(attn, size_hw):
    """The model's own relative position bias, [H, n, n]."""
    height, width = size_hw
    if hasattr(attn, "logit_scale"):
        table = 16 * torch.sigmoid(attn.cpb_mlp(attn.relative_coords_table)).view(-1, attn.num_heads)
    else:
        table = attn.relative_position_bias_table
    cells = [(y, x) for y in range(height) for x in range(width)]
    rows = [[(y - v + height - 1) * (2 * width - 1) + x - u + width - 1 for v, u in cells] for y, x in cells]
    return table[torch.tensor(rows)].permute(2, 0, 1)


def axis(cells, side, shift):
    """Along one axis, for every place of the map that timm shifts, then pads: which cell is there, or None in the
    padding; and its region, between which a shifted block does not attend."""
    length = -(-cells // side) * side
    content = [(place + shift) % cells if place < cells else None for place in range(length)]
    regions = [
        0 if shift == 0 or place < length - side else 1 if place < length - shift else 2 for place in range(length)
    ]
    return content, regions


def attention_by_hand(block, x, layer, encoding, keypoints, visibility, keypoint_grid):
    """What a block's attention makes of the map [B, rows, cols, C]."""
    rows, cols = x.shape[1:3]
    (height, width), (down, right) = block.window_size, block.shift_size
    row_at, row_region = axis(rows, height, down)
    col_at, col_region = axis(cols, width, right)
    out = torch.empty_like(x)
    for top in range(0, len(row_at), height):
        for left in range(0, len(col_at), width):
            places = [(top + y, left + x) for y in range(height) for x in range(width)]
            cells = [(row_at[i], col_at[j]) for i, j in places]
            regions = [(row_region[i], col_region[j]) for i, j in places]
            tokens = [x.new_zeros(len(x), x.shape[-1]) if None in cell else x[:, cell[0], cell[1]] for cell in cells]
            query, key, value = queries_keys_values(block.attn, torch.stack(tokens, 1))
            logits = query @ key.transpose(-2, -1) + own_bias(block.attn, block.window_size)
            logits = logits + torch.tensor([[-100.0 * (a != b) for b in regions] for a in regions])
            if keypoint_grid == "window":
                centres = [((x + 0.5) / width, (y + 0.5) / height) for y in range(height) for x in range(width)]
            else:  # whatever the padding's queries give is thrown away
                centres = [
                    (1000.0, -1000.0) if None in cell else ((cell[1] + 0.5) / cols, (cell[0] + 0.5) / rows)
                    for cell in cells
                ]
            given = keypoints, visibility, torch.tensor(centres, dtype=x.dtype), block.window_size
            logits = logits + encoding_by_definition(encoding, layer, *given)
            attended = block.attn.proj((logits.softmax(-1) @ value).transpose(1, 2).flatten(2))
            for index, cell in enumerate(cells):
                if None not in cell:
                    out[:, cell[0], cell[1]] = attended[:, index]
    return out


def swin_by_hand(plain, encodings, images, keypoints, visibility, keypoint_grid="image"):
    """The plain model's logits with the encodings of its stages."""
    x = plain.patch_embed(images)
    pixels = 4
    for stage, encoding in zip(plain.layers, encodings, strict=True):
        if not isinstance(stage.downsample, nn.Identity):
            x, pixels = stage.downsample(x), 2 * pixels
        points = keypoints
        if keypoint_grid == "image":  # fractions of what the map covers, which may be more than the image
            covered = torch.tensor([x.shape[2] * pixels, x.shape[1] * pixels], dtype=x.dtype)
            points = keypoints * torch.tensor([images.shape[3], images.shape[2]]) / covered
        for layer, block in enumerate(stage.blocks):
            given = layer, encoding, points, visibility, keypoint_grid
            if hasattr(block.attn, "logit_scale"):
                x = x + block.norm1(attention_by_hand(block, x, *given))
                x = x + block.norm2(block.mlp(x))
            else:
                x = x + attention_by_hand(block, block.norm1(x), *given)
                x = x + block.mlp(block.norm2(x))
    return plain.forward_head(plain.norm(x))


@pytest.mark.parametrize("settings", [{}, {"keypoint_grid": "window"}, {"form": "absolute", "shared": True}])
def test_equals_windows_by_hand(swin, settings, build, fill, batch):
    plain = build(swin).double()
    model = fill(add_kprpe(copy.deepcopy(plain), LANDMARKS, **settings))
    images, keypoints, visibility = batch(model)
    keypoints.requires_grad_()
    out = model(images, keypoints, visibility)
    grid = settings.get("keypoint_grid", "image")
    expected = swin_by_hand(plain, model.kprpe, images, keypoints, visibility, grid)
    torch.testing.assert_close(out, expected)
    assert (out - plain(images)).abs().max() > 1e-3 * out.abs().max()

    upstream = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    leaves = [keypoints, *model.kprpe.parameters()]
    got = torch.autograd.grad((out * upstream).sum(), leaves)
    wanted = torch.autograd.grad((expected * upstream).sum(), leaves)
    for mine, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_all_ways_of_cutting_windows_are_met(build):
    """The models above have shifts along one axis and both, windows shrunk to the map, and padding with and without
    a shift."""
    met = set()
    for what in ("Swin", "Swin, padded", "Swin V2, padded", "Swin V2, odd maps"):
        for stage in build(what).layers:
            for block in stage.blocks:
                padded = any(
                    cells % side for cells, side in zip(block.input_resolution, block.window_size, strict=True)
                )
                met.add((sum(shift > 0 for shift in block.shift_size), padded))
    assert met >= {(0, False), (1, False), (2, False), (0, True), (1, True), (2, True)}


@pytest.mark.parametrize("what", ["Swin", "Swin V2"])
@pytest.mark.parametrize("image_hw", [(32, 48), (44, 36)])
def test_another_resolution(what, image_hw, build, fill, batch):
    plain = build(what, strict_img_size=False).double()
    model = fill(add_kprpe(copy.deepcopy(plain), LANDMARKS))
    images, keypoints, visibility = batch(model, image_hw)
    expected = swin_by_hand(plain, model.kprpe, images, keypoints, visibility)
    torch.testing.assert_close(model(images, keypoints, visibility), expected)


@pytest.mark.parametrize("what", ["Swin", "Swin V2"])
def test_set_input_size_changes_windows(what, build, fill, batch):
    plain = build(what).double()
    model = fill(add_kprpe(copy.deepcopy(plain), LANDMARKS))
    for each in (plain, model):
        each.set_input_size(img_size=(40, 24), window_size=(3, 4))
    images, keypoints, visibility = batch(model, (40, 24))
    expected = swin_by_hand(plain, model.kprpe, images, keypoints, visibility)
    torch.testing.assert_close(model(images, keypoints, visibility), expected)


def test_no_visibility_is_full_visibility(swin, build, fill, batch):
    model = fill(add_kprpe(build(swin).double(), LANDMARKS))
    images, keypoints, visibility = batch(model)
    torch.testing.assert_close(model(images, keypoints), model(images, keypoints, torch.ones_like(visibility)))


def test_a_layer_without_its_bias_is_an_error(build):
    """Someone who runs the layers of an adapted model must not get those of the plain one."""
    model = add_kprpe(build("Swin"), LANDMARKS)
    block = model.layers[0].blocks[0]
    for layer, x in (
        (model.layers[0], torch.rand(1, 8, 12, 8)),
        (block, torch.rand(1, 8, 12, 8)),
        (block.attn, torch.rand(8, 12, 8)),
    ):
        with pytest.raises(TypeError, match="bias"):
            layer(x)
