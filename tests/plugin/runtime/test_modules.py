"""Pooling and per-part heads against their definitions, against OpenGait's own, and against its recorded numbers."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from plugin.runtime.modules import HorizontalPoolingPyramid, PackSequenceWrapper, SeparateBNNecks, SeparateFCs


def numbers(seed, *shape):
    """The same with every version of torch and numpy."""
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape).astype(np.float32))


def fill(module):
    with torch.no_grad():
        for seed, (name, value) in enumerate(sorted(module.state_dict().items())):
            if value.is_floating_point():
                drawn = numbers(seed, *value.shape)
                value.copy_(1 + drawn.abs() if "running_var" in name else drawn)
    return module


def gradients(output, *leaves):
    """Of a sum with weights, so that no two outputs can trade places unseen."""
    weights = numbers(99, *output.shape)
    return torch.autograd.grad((output * weights).sum(), leaves)


def test_horizontal_pooling_is_mean_plus_maximum_of_stripes():
    x = numbers(0, 2, 3, 6, 5)
    out = HorizontalPoolingPyramid([3, 1, 6])(x)
    expected = []
    for bins in (3, 1, 6):
        height = 6 // bins
        for stripe in range(bins):
            part = x[:, :, stripe * height : (stripe + 1) * height]
            expected.append(part.mean((2, 3)) + part.amax((2, 3)))
    assert_close(out, torch.stack(expected, -1))


def test_pack_sequence_pools_each_sequence_of_its_own():
    x = numbers(0, 1, 4, 9, 2, 3)
    out = PackSequenceWrapper(torch.max)(x, torch.tensor([[2, 1, 6]]), options={"dim": 2})[0]
    expected = torch.stack([x[0, :, a:b].amax(1) for a, b in ((0, 2), (2, 3), (3, 9))])
    assert torch.equal(out, expected)


def test_pack_sequence_of_equally_long_sequences():
    x = numbers(0, 3, 4, 5, 2, 3)
    out = PackSequenceWrapper(torch.max)(x, None, options={"dim": 2})[0]
    assert torch.equal(out, x.amax(2))
    laid_out = x.transpose(0, 1).reshape(1, 4, 15, 2, 3)
    packed = PackSequenceWrapper(torch.max)(laid_out, torch.tensor([[5, 5, 5]]), options={"dim": 2})[0]
    assert torch.equal(out, packed)


def test_pack_sequence_with_a_function_that_returns_one_tensor():
    x = numbers(0, 1, 4, 5, 2)
    out = PackSequenceWrapper(torch.mean)(x, torch.tensor([[3, 2]]), options={"dim": 2})
    assert_close(out, torch.stack([x[0, :, :3].mean(1), x[0, :, 3:].mean(1)]))


def test_separate_fcs_is_one_product_a_part():
    module = fill(SeparateFCs(parts_num=3, in_channels=4, out_channels=5))
    x = numbers(7, 2, 4, 3)
    out = module(x)
    for part in range(3):
        assert_close(out[:, :, part], x[:, :, part] @ module.fc_bin[part])


@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_separate_necks_are_batch_norm_and_cosines(parallel, norm, training):
    module = fill(SeparateBNNecks(3, 4, 5, norm=norm, parallel_BN1d=parallel)).train(training)
    parts = [numbers(seed, 6, 4) for seed in range(3)]
    x = torch.stack(parts, -1)
    entries = {name: value.clone() for name, value in module.state_dict().items()}

    def statistic(name, part):  # parallel: channel c of part p is feature c * parts + p
        return entries[f"bn1d.{name}"].view(4, 3)[:, part] if parallel else entries[f"bn1d.{part}.{name}"]

    feature, logits = module(x)
    for part in range(3):
        mean, var = parts[part].mean(0), parts[part].var(0, unbiased=False)
        if not training:
            mean, var = statistic("running_mean", part), statistic("running_var", part)
        expected = (parts[part] - mean) / (var + 1e-5).sqrt() * statistic("weight", part) + statistic("bias", part)
        weight = entries["fc_bin"][part]
        if norm:
            expected = expected / expected.norm(dim=1, keepdim=True)
            weight = weight / weight.norm(dim=0, keepdim=True)
        assert_close(feature[:, :, part], expected, rtol=1e-4, atol=1e-5)
        assert_close(logits[:, :, part], expected @ weight, rtol=1e-4, atol=1e-5)


def test_names_of_weights_are_opengaits():
    assert list(SeparateFCs(2, 3, 4).state_dict()) == ["fc_bin"]
    parallel, single = (set(SeparateBNNecks(2, 3, 4, parallel_BN1d=flag).state_dict()) for flag in (True, False))
    assert {"fc_bin", "bn1d.weight", "bn1d.running_mean"} < parallel
    assert {"fc_bin", "bn1d.0.weight", "bn1d.1.running_mean"} < single


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("parallel", [True, False])
def test_heads_equal_opengaits(opengait, parallel, training):
    x = numbers(0, 6, 4, 3).requires_grad_()
    fcs, fcs_there = SeparateFCs(3, 4, 5), opengait.modules.SeparateFCs(3, 4, 5)
    necks = SeparateBNNecks(3, 5, 7, parallel_BN1d=parallel)
    necks_there = opengait.modules.SeparateBNNecks(3, 5, 7, parallel_BN1d=parallel)
    for ours, theirs in ((fcs, fcs_there), (necks, necks_there)):
        theirs.load_state_dict(fill(ours).state_dict())
        ours.train(training)
        theirs.train(training)
    feature, logits = necks(fcs(x))
    feature_there, logits_there = necks_there(fcs_there(x))
    assert_close(feature, feature_there)
    assert_close(logits, logits_there)
    leaves, leaves_there = ((x, f.fc_bin, n.fc_bin) for f, n in ((fcs, necks), (fcs_there, necks_there)))
    assert_close(gradients(logits, *leaves), gradients(logits_there, *leaves_there), rtol=1e-4, atol=1e-4)
    assert_close(necks.state_dict(), necks_there.state_dict())


def test_pooling_equals_opengaits(opengait):
    x = numbers(0, 2, 3, 6, 4)
    assert_close(HorizontalPoolingPyramid([6, 2])(x), opengait.modules.HorizontalPoolingPyramid([6, 2])(x))
    packed, lengths = numbers(1, 1, 3, 7, 2), torch.tensor([[4, 3]])
    for ours, theirs in zip(
        PackSequenceWrapper(torch.max)(packed, lengths, options={"dim": 2}),
        opengait.modules.PackSequenceWrapper(torch.max)(packed, lengths, options={"dim": 2}),
        strict=True,
    ):
        assert torch.equal(ours, theirs)


def test_heads_give_the_numbers_recorded_from_opengait():
    # OpenGait's SeparateFCs and SeparateBNNecks at 0efafd4 with the numbers of fill().
    fcs, necks = fill(SeparateFCs(3, 4, 5)), fill(SeparateBNNecks(3, 5, 7)).eval()
    feature, logits = necks(fcs(numbers(0, 6, 4, 3)))
    assert_close(feature[2, :, 1], torch.tensor(RECORDED_FEATURE), rtol=0, atol=1e-5)
    assert_close(logits[4, :, 2], torch.tensor(RECORDED_LOGITS), rtol=0, atol=1e-5)
    pooled = HorizontalPoolingPyramid([3, 1])(numbers(1, 1, 2, 6, 4))
    assert_close(pooled.flatten(), torch.tensor(RECORDED_POOLED), rtol=0, atol=1e-5)


RECORDED_FEATURE = [0.452298, 0.708202, -0.279549, 0.461025, 0.05643]
RECORDED_LOGITS = [0.343891, 0.031989, -0.271012, -0.850774, 0.085106, -0.176265, -0.587941]
RECORDED_POOLED = [1.614677, 1.311988, 1.27259, 1.694016, 0.692421, 1.572635, 2.296607, 2.067172]
