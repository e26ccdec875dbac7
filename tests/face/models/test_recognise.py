"""Which model a state dict belongs to: published networks by their names and shapes, and what shapes do not tell."""

import pytest
import torch

from face.models.recognise import recognise
from face.models.registry import create_model

IR = {
    "stem.": "input_layer.",
    "norm.": "output_layer.0.",
    "linear.": "output_layer.3.",
    "feature_norm.": "output_layer.4.",
}


def state_of(name, **settings):
    """Names and shapes of a model's weights, without memory."""
    with torch.device("meta"):
        return create_model(name, **settings).state_dict()


def cvlface_names(state, prefix="net."):
    """A ViT's weights under CVLface's names."""
    out = {}
    for name, value in state.items():
        if name.startswith("position_bias.irpe."):
            place = {"on_queries": "q", "on_keys": "k", "on_values": "v"}[name.rsplit(".", 1)[1]]
            kind = "bias" if value.ndim == 3 else "weight"
            out |= {f"{prefix}blocks.{layer}.attn.rpe_{place}.lookup_table_{kind}": table
                    for layer, table in enumerate(value)}  # fmt: skip
        else:
            out[prefix + name.replace("position_bias.kprpe.", "keypoint_linear.")] = value
    return out


def ir_names(state, prefix=""):
    """An IResNet's weights under the names of CVLface and AdaFace."""
    layers = ("norm1", "conv1", "norm2", "act", "conv2", "norm3")
    out = {}
    for name, value in state.items():
        for ours, theirs in IR.items():
            if name.startswith(ours):
                name = theirs + name.removeprefix(ours)
                break
        if name.startswith("blocks."):
            _, block, layer, rest = name.split(".", 3)
            place = "shortcut_layer" if layer == "shortcut" else f"res_layer.{layers.index(layer)}"
            name = f"body.{block}.{place}.{rest}"
        out[prefix + name] = value
    return out


ENCODINGS = {
    "none": {"position_bias": "none"},
    "kprpe": {"position_bias": "kprpe", "num_keypoints": 5, "form": "multihead", "shared": False},
    "irpe": {"position_bias": "irpe", "irpe_on": "qkv", "irpe_per_head": False},
    "irpe_k_per_head": {"position_bias": "irpe", "irpe_on": "k", "irpe_per_head": True},
    "irpe_bias": {"position_bias": "irpe_bias", "irpe_on": "qk", "irpe_per_head": False},
}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("name", ["vit_small", "vit_base", "vit_large"])
def test_vits_of_cvlface(name, encoding):
    settings = ENCODINGS[encoding]
    state = state_of(name, **settings)
    for prefix in ("net.", "model.net.", "module.net."):
        found = recognise(cvlface_names(state, prefix), "w.pt")
        assert (found.name, found.layout, found.colour_order) == (name, "cvlface", "RGB")
        assert found.state.keys() == state.keys()
        with torch.device("meta"):
            built = create_model(found.name, **found.settings)
            expected = create_model(name, **settings)
        assert built.config == expected.config


@pytest.mark.parametrize("name", ["vit_tiny", "vit_small"])
def test_this_projects_vits(name):
    """Under their own names, compiled or not, with Swin's table and without the absolute encoding too."""
    for settings in ({"position_bias": "table", "absolute": False}, {"num_features": 64, "num_keypoints": 3}):
        state = state_of(name, **settings)
        found = recognise({f"_orig_mod.{key}": value for key, value in state.items()}, "w.pt")
        assert (found.layout, found.colour_order) == ("kprpe", "RGB")
        with torch.device("meta"):
            assert create_model(found.name, **found.settings).config == create_model(name, **settings).config


@pytest.mark.parametrize("name", ["iresnet18", "iresnet50", "iresnet101"])
def test_ir_networks(name):
    state = state_of(name)
    for prefix, layout, order in (
        ("net.", "cvlface", "RGB"),
        ("model.net.", "cvlface", "RGB"),
        ("model.", "adaface", "BGR"),
        ("", "adaface", None),
    ):
        theirs = ir_names(state, prefix)
        if layout == "adaface" and prefix:
            theirs["head.kernel"] = torch.zeros(512, 10)
        found = recognise(theirs, "w.ckpt")
        assert (found.name, found.layout, found.colour_order) == (name, layout, order)
        assert found.state.keys() == state.keys()
        with torch.device("meta"):
            built = create_model(found.name, **found.settings)
        assert {key: value.shape for key, value in built.state_dict().items()} == {
            key: value.shape for key, value in state.items()
        }


def test_settings_that_are_given_come_before_those_assumed():
    """KP-RPE of another form has other numbers of rows; heads of an unknown size are told."""
    state = cvlface_names(state_of("vit_small", form="relative", shared=True, method="euclidean"))
    with pytest.raises(
        ValueError, match=r"w\.pt: KP-RPE's weight has \d+ rows, but 12 layers, 8 heads, form multihead"
    ):
        recognise(state, "w.pt")
    given = {"form": "relative", "shared": True, "method": "euclidean", "drop_path": 0.1}
    settings = recognise(state, "w.pt", given=given).settings
    assert given.items() <= settings.items()

    state = state_of("vit_small", embed_dim=24, num_heads=6, depth=2, position_bias="none")
    with pytest.raises(ValueError, match=r"w\.pt: a ViT of width 24, depth 2 and MLPs of 5 times .* give name="):
        recognise(state, "w.pt")
    found = recognise(state, "w.pt", name="vit_small", given={"num_heads": 6})
    assert (found.settings["num_heads"], found.settings["depth"]) == (6, 2)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["features.1.attn.logit_scale"], "CVLface's Swin V2"),
        (["layer1.0.bn1.weight", "conv1.weight"], "insightface's iresnet"),
        (["input_layer.0.weight", "body.0.res_layer.7.weight"], "bottlenecks or squeeze-and-excitation"),
        (["stem.0.weight"], "this project's IResNet need the config.json"),
        (["swin.patch_embed.proj.weight"], "this project's Swin need the config.json"),
        (["a", "b", "c", "d", "e"], "not the weights of a known face model; .* found a, b, c, d and others"),
    ],
)
def test_other_networks_are_named(names, message):
    with pytest.raises(ValueError, match=f"w.pt: .*{message}"):
        recognise({name: torch.zeros(1) for name in names}, "w.pt")


def test_shapes_that_tell_too_little():
    state = state_of("vit_small", image_hw=(16, 24), position_bias="none")
    with pytest.raises(ValueError, match=r"feature\.0\.weight of 3072 inputs fits no square image"):
        recognise(state, "w.pt")
    del state["feature.2.weight"]
    with pytest.raises(ValueError, match=r"expected feature\.2\.weight with 2 axes, found nothing"):
        recognise({**state, "feature.0.weight": torch.zeros(512, 512 * 4)}, "w.pt")
    state = ir_names(state_of("iresnet18", depths=(3, 4, 6, 3)), "net.")
    with pytest.raises(ValueError, match=r"an IR network with \(3, 4, 6, 3\) blocks in its stages, known are \(2, 2"):
        recognise(state, "w.pt")
    assert recognise(state, "w.pt", name="iresnet50").settings["depths"] == (3, 4, 6, 3)
