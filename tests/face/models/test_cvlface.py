"""Weights and settings under the authors' names, as they release them, to those used here."""

import pytest
import torch

from common.rpe import PositionBiasSettings
from face.models.cvlface import cvlface_settings, translate_cvlface_keys, translate_iresnet_keys
from face.models.iresnet import IResNet
from face.models.vit import FaceViT

ENCODINGS = {
    "none": PositionBiasSettings(position_bias="none"),
    "kprpe": PositionBiasSettings(position_bias="kprpe", num_keypoints=5),
    "irpe": PositionBiasSettings(position_bias="irpe", irpe_on="qkv"),
}
# As in their YAML (models/vit_kprpe/configs, models/vit_irpe/configs).
KPRPE_SHARED = {
    "name": "KPRPE_shared",
    "rpe_on": "k",
    "shared_head": True,
    "mode": "ctx",
    "method": "product",
    "ratio": 1.9,
    "ctx_type": "rel_keypoint_splithead_unshared",
    "num_keypoints": 5,
}


def vit(position_bias, depth=2):
    return FaceViT(
        num_features=6,
        image_hw=(8, 8),
        patch_hw=(4, 4),
        embed_dim=8,
        depth=depth,
        num_heads=2,
        mlp_ratio=2.0,
        position_bias=ENCODINGS[position_bias],
    )


def randomised(model, rng):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.5, generator=rng)
    return model.state_dict()


def their_names(state):
    """Our state under the authors' names, as in a released file."""
    out = {}
    for name, value in state.items():
        if name.startswith("position_bias.irpe."):
            place = {"on_queries": "q", "on_keys": "k", "on_values": "v"}[name.rsplit(".", 1)[1]]
            for layer, table in enumerate(value):
                out[f"net.blocks.{layer}.attn.rpe_{place}.lookup_table_weight"] = table
        else:
            out["net." + name.replace("position_bias.kprpe.", "keypoint_linear.")] = value
    return out


@pytest.mark.parametrize("position_bias", ENCODINGS)
def test_weights_under_the_authors_names(position_bias, rng):
    """Back under our names every weight is where it was; their mask token is not ours."""
    state = randomised(vit(position_bias), rng)
    theirs = {**their_names(state), "net.mask_token": torch.zeros(1, 1, 8)}
    without_prefix = {name.removeprefix("net."): value for name, value in theirs.items()}
    for translated in (translate_cvlface_keys(theirs), translate_cvlface_keys(without_prefix)):
        assert translated.keys() == state.keys()
        for name, value in state.items():
            assert torch.equal(translated[name], value), name


def test_blocks_without_a_table_are_named():
    state = their_names(vit("irpe", depth=3).state_dict())
    missing = {name: value for name, value in state.items() if "blocks.1.attn.rpe_q" not in name}
    with pytest.raises(ValueError, match=r"on_queries: tables of blocks \[0, 2\], expected those of all blocks"):
        translate_cvlface_keys(missing)


def test_iresnet_weights_under_the_authors_names():
    """Every name has one of theirs, spelled out for a network of one block a stage."""
    model = IResNet((1, 1, 1, 1), 4, (16, 16), 0.4, 6)
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    pairs = {"input_layer.0.weight": "stem.0.weight", "input_layer.2.weight": "stem.2.weight"}
    pairs |= {"output_layer.3.weight": "linear.weight", "output_layer.3.bias": "linear.bias"}
    pairs |= {f"output_layer.4.{name}": f"feature_norm.{name}" for name in norm[2:]}
    for name in norm:
        pairs |= {f"input_layer.1.{name}": f"stem.1.{name}", f"output_layer.0.{name}": f"norm.{name}"}
    for block in range(4):
        theirs, ours = f"body.{block}.res_layer", f"blocks.{block}"
        pairs |= {f"{theirs}.1.weight": f"{ours}.conv1.weight", f"{theirs}.4.weight": f"{ours}.conv2.weight"}
        pairs |= {f"{theirs}.3.weight": f"{ours}.act.weight"}
        for name in norm:
            pairs |= {f"{theirs}.{place}.{name}": f"{ours}.norm{number}.{name}"
                      for place, number in ((0, 1), (2, 2), (5, 3))}  # fmt: skip
        if block:
            shortcut = f"body.{block}.shortcut_layer"
            pairs |= {f"{shortcut}.0.weight": f"{ours}.shortcut.0.weight"}
            pairs |= {f"{shortcut}.1.{name}": f"{ours}.shortcut.1.{name}" for name in norm}
    assert sorted(pairs.values()) == sorted(model.state_dict())
    numbered = {theirs: torch.tensor(place) for place, theirs in enumerate(pairs)}
    for prefix in ("", "net."):
        translated = translate_iresnet_keys({prefix + name: value for name, value in numbered.items()})
        assert {ours: int(value) for ours, value in translated.items()} == {
            ours: place for place, ours in enumerate(pairs.values())
        }
    assert list(translate_iresnet_keys({"body.0.res_layer.7.weight": torch.zeros(1)})) == ["body.0.res_layer.7.weight"]


@pytest.mark.parametrize(
    ("rpe", "settings"),
    [
        (None, {}),
        (
            KPRPE_SHARED,
            {
                "position_bias": "kprpe",
                "form": "multihead",
                "shared": False,
                "num_keypoints": 5,
                "method": "product",
                "ratio": 1.9,
            },
        ),
        (
            {**KPRPE_SHARED, "ctx_type": "rel_keypoint", "method": "euc", "ratio": 2.5, "num_keypoints": 3},
            {
                "position_bias": "kprpe",
                "form": "relative",
                "shared": True,
                "num_keypoints": 3,
                "method": "euclidean",
                "ratio": 2.5,
            },
        ),
        (
            {**KPRPE_SHARED, "name": "iRPE", "rpe_on": "qk", "mode": "bias", "shared_head": False, "ctx_type": ""},
            {
                "position_bias": "irpe_bias",
                "irpe_on": "qk",
                "irpe_per_head": True,
                "method": "product",
                "ratio": 1.9,
            },
        ),
    ],
)
def test_settings_of_their_yaml(rpe, settings):
    config = {"name": "base", "color_space": "RGB"} | ({} if rpe is None else {"rpe_config": rpe})
    assert cvlface_settings(config, "model.yaml") == settings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "RoPE"}, "model.yaml: rpe_config.name must be KPRPE_shared or iRPE, found 'RoPE'"),
        ({"ctx_type": "rel_keypoint_v2"}, "rpe_config.ctx_type must be one of keypoint, .*, found 'rel_keypoint_v2'"),
        ({"method": "cross"}, "rpe_config.method must be one of product, euc, quant, found 'cross'"),
    ],
)
def test_unknown_encodings(change, message):
    with pytest.raises(ValueError, match=message):
        cvlface_settings({"rpe_config": {**KPRPE_SHARED, **change}}, "model.yaml")
    with pytest.raises(ValueError, match="rpe_config must be a mapping, found 'kprpe'"):
        cvlface_settings({"rpe_config": "kprpe"}, "model.yaml")
