"""SwinGait3D in the embedded runtime: its configs, what is refused, whole sequences, and a run from train to test."""

from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from common.runtime.settings import ConfigError, merge, to_mapping
from plugin.biases import load_kprpe_model
from plugin.runtime.host import MODELS
from plugin.runtime.runner import RunOptions, test, train
from plugin.runtime.settings import load_gait_settings

CONFIGS = Path(__file__).parents[2] / "configs"
TINY_3D = {
    "model_cfg": {
        "model": "SwinGait3D",
        "backbone_cfg": {"type": "SwinGait3DBackbone", "window_size": [3, 3, 5]},
    },
    "optimizer_cfg": {"lr_scale_cnn": 0.1},
    "trainer_cfg": {"sampler": {"frames_num_fixed": 5}},
}

test.__test__ = False  # the runner's, not a test


class Silent:
    def log_info(self, message):
        pass


def build(config, base="swingait2d_kprpe", training=True):
    """A tiny SwinGait3D with numbers for what KP-RPE starts with."""
    settings = config.settings(TINY_3D, base)
    torch.manual_seed(0)
    model = MODELS["SwinGait3D"](to_mapping(settings), training, Silent())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "kprpe" in name:
                torch.nn.init.normal_(parameter, std=0.5)
    return model, settings


def flat(mapping, prefix=""):
    for key, value in mapping.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def differences(first, second):
    first, second = (dict(flat(to_mapping(load_gait_settings(CONFIGS / f"{name}.yaml")))) for name in (first, second))
    return {key for key in first | second if first.get(key) != second.get(key)}


def test_configs_differ_only_where_they_must():
    names = {"evaluator_cfg.save_name", "trainer_cfg.save_name"}
    backbone = "model_cfg.backbone_cfg"
    assert differences("swingait3d", "swingait3d_kprpe") == {
        *names, "data_cfg.data_in_use", f"{backbone}.position_bias"
    }  # fmt: skip
    for suffix in ("", "_kprpe"):
        assert differences(f"swingait2d{suffix}", f"swingait3d{suffix}") == {
            *names, "model_cfg.model", f"{backbone}.type", f"{backbone}.window_size"
        }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"model": "SwinGait2D"},
            "backbone_cfg.type must be SwinGait2DBackbone for SwinGait2D, got SwinGait3DBackbone",
        ),
        (
            {"backbone_cfg": {"type": "SwinGait2DBackbone", "window_size": [3, 5]}},
            "backbone_cfg.type must be SwinGait3DBackbone for SwinGait3D, got SwinGait2DBackbone",
        ),
        ({"model": "SwinGait"}, "'SwinGait' is not one of SwinGait2D, SwinGait3D"),
        ({"backbone_cfg": {"type": "ResNet9"}}, "'ResNet9' is not one of SwinGait2DBackbone, SwinGait3DBackbone"),
        ({"backbone_cfg": {"window_size": [3, 5]}}, "window_size"),
        ({"backbone_cfg": {"window_size": [0, 3, 5]}}, r"window_size\[0\] must be > 0, got 0"),
        ({"backbone_cfg": {"window_size": [3, 7, 5]}}, r"window_size\[1\] must be 1 to 6, .*got 7"),
        ({"backbone_cfg": {"window_size": [3, 3, 11]}}, r"window_size\[2\] must be 1 to 10, .*got 11"),
        (
            {"backbone_cfg": {"position_bias": "irpe"}},
            "position_bias must be none, table or kprpe in windows of 3 frames, got 'irpe'",
        ),
    ],
)
def test_refused_settings(config, changes, expected):
    with pytest.raises(ConfigError, match=expected):
        config.settings(merge(TINY_3D, {"model_cfg": changes}))


def test_a_model_refuses_the_other_backbone(config):
    """Where no settings are checked before: in OpenGait."""
    mapping = to_mapping(config.settings(TINY_3D))
    with pytest.raises(ValueError, match="type must be SwinGait2DBackbone for SwinGait2D, got SwinGait3DBackbone"):
        MODELS["SwinGait2D"](mapping, True, Silent())


@pytest.mark.parametrize("base", ["swingait2d", "swingait2d_kprpe"])
def test_whole_sequences_end_to_end_equal_each_alone(config, base, rng):
    model, _ = build(config, base, training=False)
    lengths = [5, 1, 4]
    silhouettes = (torch.rand(1, 10, 64, 44, generator=rng) < 0.5).float()
    streams = [silhouettes, torch.rand(1, 10, 17, 3, generator=rng)][: 2 if "kprpe" in base else 1]
    with torch.no_grad():
        together = model((streams, torch.arange(3), None, None, torch.tensor([lengths])))
        cut = zip(*(stream.split(lengths, 1) for stream in streams), strict=True)
        alone = [model((list(part), torch.arange(1), None, None, None))["inference_feat"]["embeddings"] for part in cut]
    assert_close(together["inference_feat"]["embeddings"], torch.cat(alone), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("base", ["swingait2d", "swingait2d_kprpe"])
def test_every_parameter_learns_in_one_group(config, base, rng):
    model, settings = build(config, base)
    silhouettes = (torch.rand(4, 2, 64, 44, generator=rng) < 0.5).float()
    keypoints = torch.rand(4, 2, 17, 3, generator=rng)
    features = model(([silhouettes, keypoints], torch.zeros(4), None, None, None))["training_feat"]
    (features["triplet"]["embeddings"].sum() + features["softmax"]["logits"].square().sum()).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    optimizer = model.get_optimizer(to_mapping(settings.optimizer_cfg))
    rates = {id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(rates) == len(list(model.parameters()))
    lr, decay = settings.optimizer_cfg.lr, settings.optimizer_cfg.weight_decay
    for name, parameter in model.named_parameters():
        if "kprpe" in name or "bias_table" in name:
            assert rates[id(parameter)] == (lr, 0.0)
        elif "shortcut3d" in name:
            assert rates[id(parameter)] == (pytest.approx(lr / 10), decay)


def test_trains_and_tests(config):
    changes = merge(TINY_3D, {"trainer_cfg": {"total_iter": 2}, "evaluator_cfg": {"restore_hint": 2}})
    settings = config.settings(changes)
    options = RunOptions(output=config.folder / "output")
    assert train(settings, options) is None
    folder = config.folder / "output" / "tiny" / "SwinGait3D" / "tiny"
    assert (folder / "checkpoints" / "tiny-00002.pt").exists()
    result = test(settings, options)
    assert result.path.is_relative_to(folder)
    with pytest.raises(ValueError, match=r"run.yaml: model_cfg.model must be SwinGait2D, found SwinGait3D: biases in"):
        load_kprpe_model(settings, None, 2, options.output, "run.yaml")
