"""Models by name: sizes, settings checked, and configs that build the same model again."""

import json

import pytest
import torch

from face.models.base import FaceModel
from face.models.iresnet import IResNetSettings, build_iresnet
from face.models.registry import create_model, model_names, model_settings, register_model

NAMES = [
    "vit_tiny",
    "vit_small",
    "vit_base",
    "vit_large",
    "swin_small",
    "swin_base",
    "iresnet18",
    "iresnet50",
    "iresnet101",
]
TINY = {
    "vit_tiny": {"image_hw": (8, 12), "patch_hw": (4, 4), "embed_dim": 8, "depth": 2, "num_heads": 2},
    "swin_small": {
        "image_hw": (13, 15),
        "embed_dim": 8,
        "depths": (1, 1),
        "num_heads": (2, 2),
        "window_size": (2, 2),
    },
    "iresnet18": {"image_hw": (16, 24), "width": 4},
}


@pytest.mark.parametrize("name", NAMES)
def test_every_model_says_what_it_takes_and_gives(name):
    with torch.device("meta"):
        model = create_model(name)
    assert isinstance(model, FaceModel)
    assert model.image_hw == (112, 112)
    assert model.num_features == 512
    assert model.needs_keypoints == (not name.startswith("iresnet"))
    assert model.config.name == name


@pytest.mark.parametrize("name", TINY)
def test_one_signature(name, rng):
    model = create_model(name, num_features=6, **TINY[name])
    images, keypoints = torch.randn(2, 3, *model.image_hw, generator=rng), torch.rand(2, 5, 2, generator=rng)
    assert model(images, keypoints, torch.ones(2, 5)).shape == model(images, keypoints).shape == (2, 6)
    if model.needs_keypoints:
        with pytest.raises(ValueError, match="needs keypoints, got None"):
            model(images)
    else:
        assert model(images).shape == (2, 6)


def test_names():
    assert model_names() == NAMES


@pytest.mark.parametrize(
    ("name", "settings", "parameters"),
    [
        ("vit_small", {"position_bias": "none"}, 95_952_384),
        ("vit_small", {}, 96_004_128),
        ("vit_small", {"position_bias": "irpe", "irpe_on": "qkv"}, 96_065_280),
        ("vit_base", {}, 115_076_736),
        # Written out: patches, positions, 24 blocks, norm, head.
        (
            "vit_large",
            {"position_bias": "none"},
            (192 * 768 + 768) + 196 * 768 + 24 * (12 * 768**2 + 6 * 768 + 4 * 768) + 2 * 768
            + (196 * 768 * 768 + 2 * 768 + 768 * 512 + 2 * 512),
        ),
    ],
)  # fmt: skip
def test_numbers_of_parameters(name, settings, parameters):
    with torch.device("meta"):
        model = create_model(name, **settings)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@pytest.mark.parametrize("name", TINY)
def test_a_config_builds_the_same_model_again(name, rng):
    """Through JSON, as files have it, and with every setting in it."""
    model = create_model(name, num_features=6, **TINY[name]).eval()
    stored = json.loads(json.dumps(model.config.settings))
    assert stored == model.config.settings
    assert {"num_features", "image_hw"} <= stored.keys()
    again = create_model(model.config.name, **stored).eval()
    again.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, *model.image_hw, generator=rng)
    keypoints = torch.rand(2, 5, 2, generator=rng)
    assert torch.equal(model(images, keypoints), again(images, keypoints))
    assert again.config == model.config
    assert again.image_hw == TINY[name]["image_hw"]


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("position_bias", ["none", "table", "irpe_bias", "irpe", "kprpe"])
def test_the_ablation_is_two_settings(position_bias, absolute):
    model = create_model("vit_tiny", position_bias=position_bias, absolute=absolute, **TINY["vit_tiny"])
    assert (model.pos_embed is not None) == absolute
    encoded = {key.split(".")[1] for key, _ in model.named_parameters() if key.startswith("position_bias.")}
    expected = {"none": set(), "table": {"tables"}, "kprpe": {"kprpe"}}.get(position_bias, {"irpe"})
    assert encoded == expected


def test_settings_reach_the_encoding():
    model = create_model(
        "vit_tiny", **TINY["vit_tiny"], num_keypoints=3, form="relative", shared=True, method="quant", ratio=1.0
    )
    rpe = model.position_bias.kprpe
    assert (rpe.num_keypoints, rpe.form, rpe.shared, rpe.method, rpe.ratio) == (3, "relative", True, "quant", 1.0)


def test_checkpointing_changes_memory_alone(rng):
    """Same embeddings and gradients."""
    outcomes = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = create_model("vit_tiny", **TINY["vit_tiny"], checkpointing=checkpointing, drop_path=0.5)
        torch.nn.init.normal_(model.position_bias.kprpe.weight)
        images = torch.randn(6, 3, 8, 12, generator=rng.manual_seed(1))
        torch.manual_seed(1)
        out = model(images, torch.rand(6, 5, 2, generator=rng))
        out.square().sum().backward()
        outcomes.append([out, *(parameter.grad for parameter in model.parameters())])
    torch.testing.assert_close(outcomes[1], outcomes[0])


def test_wrong_names_and_settings():
    with pytest.raises(ValueError, match=r"unknown model 'vit_huge'; models: vit_tiny, vit_small, .*, iresnet101"):
        create_model("vit_huge")
    with pytest.raises(
        ValueError, match=r"vit_tiny: no such setting: heads, width; settings: position_bias, num_key.*"
    ):
        create_model("vit_tiny", heads=3, width=8)
    with pytest.raises(ValueError, match="iresnet18: no such setting: position_bias; settings: num_features, image_hw"):
        create_model("iresnet18", position_bias="kprpe")
    with pytest.raises(ValueError, match="position_bias: 'rope' is not one of none, table, irpe_bias, irpe, kprpe"):
        create_model("vit_tiny", position_bias="rope")
    with pytest.raises(ValueError, match=r"vit_tiny: .*\n.*depth: expected int, found '6'"):
        create_model("vit_tiny", depth="6")
    with pytest.raises(ValueError, match="vit_tiny: embed_dim 128 cannot be split into 3 heads"):
        create_model("vit_tiny", num_heads=3)
    with pytest.raises(ValueError, match=r"a\.json: no such setting: dim"):
        model_settings("vit_tiny", "a.json", dim=3)


def test_registration_is_explicit_and_refuses_a_second_time():
    with pytest.raises(ValueError, match="there is a model 'iresnet18' already; models: vit_tiny"):
        register_model("iresnet18", IResNetSettings, build_iresnet)
    with pytest.raises(ValueError, match="iresnet_new: no such setting: blocks"):
        register_model("iresnet_new", IResNetSettings, build_iresnet, {"blocks": (1, 1, 1, 1)})
    assert "iresnet_new" not in model_names()


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("vit_tiny", {"depth": 1, "patch_hw": [28, 28]}),
        ("swin_small", {"depths": [1, 1], "num_heads": [1, 2], "embed_dim": 16}),
        ("iresnet18", {}),
    ],
)
def test_embeddings_are_not_rounded_under_autocast(name, settings):
    """Cosines are made of them: what the last layers are given may be rounded, what they give is not."""
    model = create_model(name, num_features=8, **settings).eval()
    images, keypoints = torch.rand(2, 3, 112, 112), torch.rand(2, 5, 2)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        embeddings = model(images, keypoints)
    assert embeddings.dtype == torch.float32
    assert not torch.equal(embeddings, embeddings.bfloat16().float())
