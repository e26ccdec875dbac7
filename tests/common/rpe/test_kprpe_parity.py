"""KeypointRPE computes the biases of the authors' KP-RPE: in the windows of their Swin, and on rectangular grids.

The stored numbers are theirs, written by tests/parity/cvlface.py; with CVLFACE_ROOT set their checkout is run too.
Whole vision transformers are compared in tests/face/models/test_vit_parity.py.

Maps that are no multiple of the window are padded. For queries of the padding, whose outputs Swin throws away, the
authors have a bias of zero and we have that of their position, so only queries of the image are compared, with all
their keys.
"""

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from common.rpe import KeypointRPE, Window, num_buckets


def _harness():
    path = Path(__file__).parents[2] / "parity" / "cvlface.py"
    spec = importlib.util.spec_from_file_location("parity_cvlface", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


cvlface = _harness()
ROOT = Path(os.environ.get("CVLFACE_ROOT", "."))
live = pytest.mark.skipif(not os.environ.get("CVLFACE_ROOT"), reason="CVLFACE_ROOT names no CVLface checkout")
IMPLEMENTATIONS = ["affine", "direct"]


def window_of(grid_hw, size, shift):
    """As Swin has it: a map that is one window is not shifted."""
    return Window((size, size), tuple(0 if side <= size else shift for side in grid_hw))


def queries_of_the_image(grid_hw, window):
    """[W, n] by loop: which positions of the windows lie on the map, not in its padding."""
    (rows, cols), (height, width), (down, right) = grid_hw, *window
    padded_rows, padded_cols = -(-rows // height) * height, -(-cols // width) * width
    real = [
        [
            (top + y + down) % padded_rows < rows and (left + x + right) % padded_cols < cols
            for y in range(height)
            for x in range(width)
        ]
        for top in range(0, padded_rows, height)
        for left in range(0, padded_cols, width)
    ]
    return torch.tensor(real)


def stage_rpe(state, heads, layers, implementation):
    rpe = KeypointRPE(5, heads, layers, implementation=implementation)
    rpe.load_state_dict(state)
    return rpe


def assert_biases_equal(found, theirs, grid_hw, window, tolerance=1e-5):
    """Ours [B, W, H, n, n] and theirs [B * W, H, n, n], in the rows of the image's queries."""
    assert found.flatten(0, 1).shape == theirs.shape
    real = queries_of_the_image(grid_hw, window)[None, :, None, :, None].expand_as(found)
    assert real[0, :, 0, :, 0].sum() == grid_hw[0] * grid_hw[1]
    torch.testing.assert_close(found[real], theirs.view_as(found)[real], rtol=tolerance, atol=tolerance)
    assert (theirs.view_as(found)[~real] == 0).all()


def stages_of_ours(linears, implementation):
    """(bias, grid, window) of every block of the harness's stages."""
    with torch.no_grad():
        for (grid_hw, (heads, shifts)), state in zip(cvlface.STAGES.items(), linears, strict=True):
            windows = [window_of(grid_hw, cvlface.WINDOW, shift) for shift in shifts]
            rpe = stage_rpe(state, heads, len(windows), implementation)
            biases = rpe(cvlface.window_keypoints(), grid_hw, windows=windows)
            yield from zip(biases, [grid_hw] * len(windows), windows, strict=True)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_stored_window_biases(implementation):
    with np.load(cvlface.STORED_WINDOWS) as file:
        stored = {name: torch.from_numpy(file[name]) for name in file.files}
    linears = [{name: stored[f"{name}-{stage}"] for name in ("weight", "bias")} for stage in range(len(cvlface.STAGES))]
    blocks = list(stages_of_ours(linears, implementation))
    assert len(blocks) == sum(name.startswith("block-") for name in stored) == 4
    for number, block in enumerate(blocks):
        assert_biases_equal(block[0], stored[f"block-{number}"], *block[1:])


@live
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_window_biases_beside_the_authors_code(implementation):
    linears, theirs = cvlface.window_biases(ROOT)
    for block, expected in zip(stages_of_ours(linears, implementation), theirs, strict=True):
        assert_biases_equal(block[0], expected, *block[1:])


@pytest.fixture(scope="module")
def swin():
    """Their whole Swin V2 + KP-RPE, narrow, and a batch for it. Feature maps of 37, 19, 10 and 5 positions a side."""
    package = cvlface.load_models(ROOT, "swin_kprpe")
    net = cvlface.module_of(ROOT, "swin_kprpe", "swin.model").SwinTransformer(
        img_size=[112, 112],
        patch_size=[3, 3],
        embed_dim=16,
        depths=[2, 2, 4, 2],
        num_heads=[1, 2, 4, 8],
        window_size=[5, 5],
        stochastic_depth_prob=0.0,
        num_classes=12,
    )
    case = cvlface.Case("swin_kprpe", ctx_type=cvlface.PUBLISHED)
    config = cvlface.Config(color_space="RGB", mask_ratio=0, rpe_config=cvlface.rpe_config(case))
    model = package.SWINKPRPEModelWithKPRPE(net, config)
    buffers = {name: value for name, value in model.state_dict().items() if "relative_" in name}
    model.load_state_dict(cvlface.numbers(cvlface.shapes_of(model), seed=6) | buffers)
    random = np.random.RandomState(8)
    images = torch.from_numpy(random.standard_normal((3, 3, 112, 112)))
    keypoints = torch.from_numpy(random.uniform(-0.2, 1.2, (3, 5, 2)))
    return model.double(), images, keypoints, torch.from_numpy(random.standard_normal((3, 12)))


def rpes_and_windows(model, implementation):
    """Our KP-RPE of every stage of their Swin with its weights, the grid, and the windows of the blocks."""
    for grid_hw, linear in zip(model.swin_config, model.keypoint_linear, strict=True):
        blocks = model.swin_config[grid_hw]
        rpe = stage_rpe(linear.state_dict(), blocks[0]["num_heads"], len(blocks), implementation).double()
        yield rpe, grid_hw, [window_of(grid_hw, 5, block["shift_size"][0]) for block in blocks]


@live
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("training", [False, True])
def test_swin_under_our_biases(swin, implementation, training):
    """Outputs, and gradients of the keypoints and of KP-RPE's weights, of their Swin under our biases and its own."""
    model, images, keypoints, weights = swin
    model.train(training)
    assert [grid_hw[0] for grid_hw in model.swin_config] == [37, 19, 10, 5]
    theirs_points, our_points = keypoints.clone().requires_grad_(), keypoints.clone().requires_grad_()
    expected = model(images, theirs_points)
    linears = list(model.keypoint_linear.parameters())
    of_theirs = torch.autograd.grad((expected * weights).sum(), [theirs_points, *linears])
    context, parameters = [], []
    for rpe, grid_hw, windows in rpes_and_windows(model, implementation):
        context += [{"rel_keypoints": bias.flatten(0, 1)} for bias in rpe(our_points, grid_hw, windows=windows)]
        parameters += [rpe.weight, rpe.bias]
    found = model.net(images, context)
    of_ours = torch.autograd.grad((found * weights).sum(), [our_points, *parameters])
    assert not context  # a bias for every block, taken one by one
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    for own, gradient in zip(of_ours, of_theirs, strict=True):
        assert gradient.abs().max() > 1e-3
        torch.testing.assert_close(own, gradient, rtol=0, atol=1e-9 * max(1, float(gradient.abs().max())))


@live
def test_swin_in_float32(swin):
    model, images, keypoints, _ = swin
    model.eval()
    with torch.no_grad():
        expected = model(images, keypoints)
        context = [
            {"rel_keypoints": bias.flatten(0, 1)}
            for rpe, grid_hw, windows in rpes_and_windows(model, "affine")
            for bias in rpe.float()(keypoints.float(), grid_hw, windows=windows)
        ]
        found = model.float().net(images.float(), context)
    model.double()
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-4)


@live
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("method", ["product", "euclidean", "quant", "cross"])
def test_rectangular_grids(method, implementation, rng):
    """Their networks are square, their look-up need not be: f(P) by the definition, read by their module."""
    kprpe = cvlface.module_of(ROOT, "vit_kprpe", "RPE.KPRPE.kprpe_shared")
    heads, (rows, cols) = 3, (4, 7)
    rpe = KeypointRPE(5, heads, method=method, implementation=implementation)
    values = num_buckets(method) // (2 if method == "cross" else 1)
    weight = torch.randn(heads, values, 10, generator=rng)
    offset = torch.randn(heads, values, generator=rng)
    tables = 2 if method == "cross" else 1  # theirs reads rows and columns from the same values
    with torch.no_grad():
        rpe.weight.copy_(weight.repeat(1, tables, 1).flatten(0, 1))
        rpe.bias.copy_(offset.repeat(1, tables).flatten())
    keypoints = torch.rand(2, 5, 2, generator=rng)
    centres = [torch.tensor([(col + 0.5) / cols, (row + 0.5) / rows]) for row in range(rows) for col in range(cols)]
    differences = torch.stack([(centre - keypoints).flatten(1) for centre in centres], dim=1)
    f = F.linear(differences, weight.flatten(0, 1), offset.flatten())
    config = kprpe.get_rpe_config(method={"euclidean": "euc"}.get(method, method), rpe_on="k")
    _, theirs, _ = kprpe.build_rpe(config, head_dim=None, num_heads=heads)
    expected = theirs(f.unflatten(-1, (heads, values)).transpose(1, 2), height=rows, width=cols)
    torch.testing.assert_close(rpe(keypoints, (rows, cols))[0], expected, rtol=1e-5, atol=1e-5)
