"""The model in the embedded runtime: what goes in and out, its optimizer groups and its initial weights."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from common.runtime.settings import to_mapping
from plugin.model import init_weights
from plugin.runtime.host import MODELS

PARTS = 6  # bin_num of the tiny config; one more is trained and not given out


class Silent:
    def log_info(self, message):
        pass


def build(config, base="swingait2d_kprpe", training=True, **changes):
    settings = config.settings(changes, base)
    torch.manual_seed(0)
    return MODELS["SwinGait2D"](to_mapping(settings), training, Silent()), settings


def enliven(model):
    """KP-RPE starts at zero, where it does nothing."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "kprpe" in name or "bias_table" in name:
                nn.init.normal_(parameter, std=0.5)


def streams(rng, *lead):
    silhouettes = (torch.rand(*lead, 64, 44, generator=rng) < 0.5).float()
    return silhouettes, torch.rand(*lead, 17, 3, generator=rng)


@pytest.mark.parametrize("base", ["swingait2d", "swingait2d_kprpe"])
def test_training_output(config, base, rng):
    model, _ = build(config, base)
    silhouettes, keypoints = streams(rng, 4, 3)
    inputs = [silhouettes, keypoints] if "kprpe" in base else [silhouettes]
    labels = torch.tensor([0, 0, 1, 1])
    out = model((inputs, labels, None, None, None))
    assert set(out) == {"training_feat", "visual_summary", "inference_feat"}
    assert set(out["training_feat"]) == {"triplet", "softmax"}
    assert set(out["training_feat"]["triplet"]) == {"embeddings", "labels"}
    assert set(out["training_feat"]["softmax"]) == {"logits", "labels"}
    assert list(out["training_feat"]["triplet"]["embeddings"].shape) == [4, 8, PARTS]
    assert list(out["training_feat"]["softmax"]["logits"].shape) == [4, 5, PARTS]
    assert torch.equal(out["training_feat"]["softmax"]["labels"], labels)
    assert list(out["visual_summary"]) == ["image/sils"]
    assert list(out["visual_summary"]["image/sils"].shape) == [4 * 3, 1, 64, 44]
    assert torch.equal(out["inference_feat"]["embeddings"], out["training_feat"]["triplet"]["embeddings"])


@pytest.mark.parametrize("base", ["swingait2d", "swingait2d_kprpe"])
def test_whole_sequences_end_to_end_equal_each_alone(config, base, rng):
    model, _ = build(config, base, training=False)
    enliven(model)
    lengths = [5, 1, 3]
    silhouettes, keypoints = streams(rng, 1, sum(lengths))
    both = [silhouettes, keypoints] if "kprpe" in base else [silhouettes]
    labels = torch.arange(3)
    with torch.no_grad():
        together = model((both, labels, None, None, torch.tensor([lengths])))["inference_feat"]["embeddings"]
        alone = []
        for index, (first, length) in enumerate(zip([0, 5, 6], lengths, strict=True)):
            part = [stream[:, first : first + length] for stream in both]
            out = model((part, labels[index : index + 1], None, None, None))
            alone.append(out["inference_feat"]["embeddings"])
    assert list(together.shape) == [3, 8, PARTS]
    assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_keypoints_change_the_embeddings_once_kprpe_has_weights(config, rng):
    model, _ = build(config, training=False)
    silhouettes, keypoints = streams(rng, 2, 3)

    def embeddings(joints):
        with torch.no_grad():
            return model(([silhouettes, joints], torch.zeros(2), None, None, None))["inference_feat"]["embeddings"]

    fresh = embeddings(keypoints), embeddings(1 - keypoints)
    assert torch.equal(*fresh)
    enliven(model)
    assert not torch.allclose(embeddings(keypoints), embeddings(1 - keypoints))


def test_every_parameter_gets_a_gradient(config, rng):
    """DistributedDataParallel without find_unused_parameters needs it."""
    for base in ("swingait2d", "swingait2d_kprpe"):
        model, _ = build(config, base)
        silhouettes, keypoints = streams(rng, 4, 3)
        inputs = [silhouettes, keypoints] if "kprpe" in base else [silhouettes]
        features = model((inputs, torch.zeros(4), None, None, None))["training_feat"]
        (features["triplet"]["embeddings"].sum() + features["softmax"]["logits"].square().sum()).backward()
        assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_last_part_is_cut_off_from_the_backbone(config, rng):
    """The part that is trained apart must not pull on the token map: its head's weights leave the rest untouched."""
    model, _ = build(config)
    silhouettes, keypoints = streams(rng, 4, 3)
    grads = []
    for factor in (1, 7):
        model.zero_grad()
        with torch.no_grad():
            model.FCs.fc_bin[-1].mul_(factor)
        model.eval()
        out = model(([silhouettes, keypoints], torch.zeros(4), None, None, None))
        out["inference_feat"]["embeddings"].square().sum().backward()
        grads.append(model.Backbone.layer0[0].weight.grad.clone())
        assert not model.FCs.fc_bin.grad[-1].any()
    assert torch.equal(*grads)


@pytest.mark.parametrize("base", ["swingait2d", "swingait2d_kprpe"])
def test_optimizer_groups(config, base):
    changes = {"optimizer_cfg": {"lr": 0.01, "weight_decay": 0.05, "lr_scale_cnn": 0.1}}
    model, settings = build(config, base, **changes)
    optimizer = model.get_optimizer(to_mapping(settings.optimizer_cfg))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rates, decays = {}, {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            assert name not in rates, f"{name} is in two groups"
            rates[name], decays[name] = group["lr"], group["weight_decay"]
    assert set(rates) == set(names.values())
    for name in rates:
        transformer = name.startswith("Backbone.transformer.")
        assert rates[name] == pytest.approx(0.01 if transformer else 0.001), name
        without_decay = transformer and any(
            part in name
            for part in ("patch_embed", ".norm", "downsample.norm", "relative_position_bias_table", "kprpe")
        )
        assert decays[name] == (0.0 if without_decay else 0.05), name
    free = {name for name, decay in decays.items() if decay == 0}
    assert any("kprpe" in name for name in free) == ("kprpe" in base)
    assert any("relative_position_bias_table" in name for name in free) == ("kprpe" not in base)
    assert any("patch_embed" in name for name in free)
    assert any(".norm1." in name for name in free)
    assert any("qkv" in name and decays[name] == 0.05 for name in decays)


def test_kprpe_is_zero_after_init(config):
    model, _ = build(config)
    kprpe = {name: parameter for name, parameter in model.named_parameters() if "kprpe" in name}
    assert kprpe
    assert all(not parameter.any() for parameter in kprpe.values())
    enliven(model)
    model.init_parameters()
    assert any(parameter.any() for parameter in kprpe.values())  # left as they are, whatever they are


def test_initial_weights(config):
    model, _ = build(config)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            assert 0.01 < module.weight.std() < 0.03, name
        elif isinstance(module, nn.Conv2d):
            fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(module.weight)
            assert module.weight.abs().max() <= (6 / (fan_in + fan_out)) ** 0.5, name
        elif isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            assert 0 < (module.weight - 1).abs().max() < 0.1, name
        if getattr(module, "bias", None) is not None and "kprpe" not in name:
            assert not module.bias.any(), name


@pytest.mark.parametrize("module", [nn.BatchNorm2d(3, affine=False), nn.Conv2d(1, 1, 1, bias=False), nn.ReLU()])
def test_init_takes_modules_without_weights_or_bias(module):
    init_weights(module)


def test_fix_batch_norm_freezes_statistics_alone(config, rng):
    model, _ = build(config)
    model.fix_batch_norm()
    assert model.training
    before = {name: value.clone() for name, value in model.named_buffers()}
    silhouettes, keypoints = streams(rng, 4, 3)
    model(([silhouettes, keypoints], torch.zeros(4), None, None, None))
    assert_close(dict(model.named_buffers()), before, rtol=0, atol=0)


def test_unfinished_model_says_so():
    from plugin.runtime.host import BaseModel

    with pytest.raises(TypeError, match="BaseModel does not build a network"):
        BaseModel({"model_cfg": {}}, True, Silent())


def test_models_that_differ_in_the_position_bias_start_alike_in_all_else(config):
    table = build(config, "swingait2d")[0].state_dict()
    kprpe = build(config)[0].state_dict()
    shared = table.keys() & kprpe.keys()
    assert {name.split(".")[-1] for name in table.keys() - shared} == {"relative_position_bias_table"}
    for name in shared:
        assert torch.equal(table[name], kprpe[name]), name
