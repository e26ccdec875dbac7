"""Models in files: this project's folders there and back, released layouts, colours, and every refusal."""

import json
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from common.runtime.checkpoint import CheckpointError
from face.models.pretrained import load_pretrained, save_pretrained
from face.models.registry import create_model

VIT = {"image_hw": (8, 8), "patch_hw": (4, 4), "embed_dim": 8, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0}
TINY = {
    "vit_tiny": {**VIT, "image_hw": (8, 12)},
    "swin_small": {
        "image_hw": (13, 15),
        "embed_dim": 8,
        "depths": (1, 1),
        "num_heads": (2, 2),
        "window_size": (2, 2),
    },
    "iresnet18": {"image_hw": (16, 16), "width": 4},
}
KPRPE = {
    "name": "KPRPE_shared",
    "method": "product",
    "ratio": 1.9,
    "ctx_type": "rel_keypoint_splithead_unshared",
    "num_keypoints": 5,
}


def trained(rng, name, **settings):
    """A model whose weights and running statistics are all random, evaluating."""
    model = create_model(name, **{"num_features": 6, **TINY[name], **settings})
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.copy_(0.2 + torch.rand(value.shape, generator=rng) * 0.5)
    return model.eval()


def outputs(model, rng):
    rng.manual_seed(3)
    images = torch.randn(3, 3, *model.image_hw, generator=rng)
    with torch.no_grad():
        return model(images, torch.rand(3, 5, 2, generator=rng))


def ir_names(state, prefix):
    """An IResNet's weights as CVLface and AdaFace name them."""
    layers = ("norm1", "conv1", "norm2", "act", "conv2", "norm3")
    out = {}
    for name, value in state.items():
        first, rest = name.split(".", 1)
        if first == "blocks":
            block, layer, rest = rest.split(".", 2)
            place = "shortcut_layer" if layer == "shortcut" else f"res_layer.{layers.index(layer)}"
            name = f"body.{block}.{place}.{rest}"
        else:
            theirs = {
                "stem": "input_layer",
                "norm": "output_layer.0",
                "linear": "output_layer.3",
                "feature_norm": "output_layer.4",
            }
            name = f"{theirs[first]}.{rest}"
        out[prefix + name] = value.clone()
    return out


def cvlface_vit(model, prefix="net."):
    return {
        prefix + name.replace("position_bias.kprpe.", "keypoint_linear."): value.clone()
        for name, value in model.state_dict().items()
    }


@pytest.mark.parametrize("name", TINY)
def test_there_and_back(name, rng, tmp_path):
    model = trained(rng, name)
    save_pretrained(model, tmp_path / "new" / "folder")
    folder = tmp_path / "new" / "folder"
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    for source in (folder, str(folder), folder / "model.safetensors"):
        loaded = load_pretrained(source)
        assert torch.equal(outputs(loaded, rng), outputs(model, rng))
        assert loaded.config == model.config
        assert not loaded.training
        assert (loaded.origin.layout, loaded.origin.colour_order) == ("kprpe", "RGB")
    alone = tmp_path / "alone.safetensors"  # the weights carry their config
    (folder / "model.safetensors").rename(alone)
    assert torch.equal(outputs(load_pretrained(alone), rng), outputs(model, rng))


def test_what_a_config_says(rng, tmp_path):
    save_pretrained(trained(rng, "vit_tiny"), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["name"] == "vit_tiny"
    assert config["settings"]["image_hw"] == config["image_hw"] == [8, 12]
    assert (config["colour_order"], config["image_range"], config["num_features"]) == ("RGB", [-1, 1], 6)
    assert (config["keypoints"]["number"], config["keypoints"]["schema"]) == (5, "face5")
    save_pretrained(trained(rng, "vit_tiny", num_keypoints=3), tmp_path)
    keypoints = json.loads((tmp_path / "config.json").read_text())["keypoints"]
    assert (keypoints["number"], keypoints["schema"]) == (3, None)
    save_pretrained(trained(rng, "iresnet18"), tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["keypoints"] is None


def test_an_interrupted_save_leaves_the_old_model(rng, tmp_path, monkeypatch):
    old = trained(rng, "vit_tiny")
    save_pretrained(old, tmp_path)

    def full_disk(state, path, metadata):
        path.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr("safetensors.torch.save_file", full_disk)
    with pytest.raises(OSError, match="no space left"):
        save_pretrained(trained(rng, "iresnet18"), tmp_path)
    assert torch.equal(outputs(load_pretrained(tmp_path), rng), outputs(old, rng))
    assert len(list(tmp_path.iterdir())) == 2


def test_settings_may_be_overridden(rng, tmp_path):
    model = trained(rng, "vit_tiny")
    save_pretrained(model, tmp_path)
    loaded = load_pretrained(tmp_path, drop_path=0.2, implementation="explicit")
    assert loaded.config.settings == {**model.config.settings, "drop_path": 0.2, "implementation": "explicit"}
    torch.testing.assert_close(outputs(loaded, rng), outputs(model, rng))


@pytest.mark.parametrize("layout", ["hub", "hub without safetensors", "training"])
def test_released_folders_of_cvlface(layout, rng, tmp_path):
    """With code beside the weights, which must not be run."""
    model = trained(rng, "vit_tiny", image_hw=(8, 8))
    conf = {"name": "tiny", "color_space": "RGB", "output_dim": 6, "input_size": [3, 8, 8], "rpe_config": KPRPE}
    (tmp_path / "wrapper.py").write_text("raise SystemExit('run')")
    if layout == "training":
        torch.save(cvlface_vit(model), tmp_path / "model.pt")
        (tmp_path / "model.yaml").write_text(yaml.safe_dump(conf))
    else:
        (tmp_path / "config.json").write_text(json.dumps({"architectures": ["CVLFaceRecognitionModel"], "conf": conf}))
        (tmp_path / "pretrained_model").mkdir()
        torch.save(cvlface_vit(model), tmp_path / "pretrained_model" / "model.pt")
        (tmp_path / "pretrained_model" / "model.yaml").write_text(yaml.safe_dump(conf))
        if layout == "hub":
            save_file(cvlface_vit(model, "model.net."), tmp_path / "model.safetensors", {"format": "pt"})
    loaded = load_pretrained(tmp_path, name="vit_tiny", num_heads=2)
    assert torch.equal(outputs(loaded, rng), outputs(model, rng))
    assert loaded.config.settings == model.config.settings
    assert (loaded.origin.layout, loaded.origin.colour_order) == ("cvlface", "RGB")


@pytest.mark.parametrize("case", ["cvlface's yaml", "adaface", "given"])
def test_weights_that_took_bgr(case, rng, tmp_path):
    """The loaded model gives for RGB what the original gives for the same images with their channels flipped."""
    original = trained(rng, "iresnet18")
    order = None
    if case == "adaface":
        state = ir_names(original.state_dict(), "model.")
        contents = {"state_dict": {**state, "head.kernel": torch.zeros(6, 9)}, "epoch": 3}
    elif case == "given":
        contents, order = ir_names(original.state_dict(), ""), "BGR"
    else:
        contents = ir_names(original.state_dict(), "net.")
        (tmp_path / "model.yaml").write_text("name: ir18\ncolor_space: BGR\n")
    file = tmp_path / ("model.ckpt" if case == "adaface" else "model.pt")
    torch.save(contents, file)
    loaded = load_pretrained(file, colour_order=order)
    images = torch.randn(2, 3, 16, 16, generator=rng)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), original(images.flip(1)), rtol=1e-5, atol=1e-5)
        assert (loaded(images) - original(images)).abs().max() > 1e-3
    assert loaded.origin.colour_order == "BGR"
    save_pretrained(loaded, tmp_path / "again")  # from here on it is a model of RGB
    again = load_pretrained(tmp_path / "again")
    assert torch.equal(outputs(again, rng), outputs(loaded, rng))
    assert again.origin.colour_order == "RGB"


def test_a_vit_that_took_bgr(rng, tmp_path):
    original = trained(rng, "vit_tiny", position_bias="none", image_hw=(8, 8))
    torch.save(cvlface_vit(original), tmp_path / "w.pt")
    loaded = load_pretrained(tmp_path / "w.pt", colour_order="BGR", name="vit_tiny", num_heads=2)
    images = torch.randn(2, 3, 8, 8, generator=rng)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), original(images.flip(1)), rtol=1e-5, atol=1e-5)


def test_weights_that_may_be_of_either_order(rng, tmp_path):
    model = trained(rng, "iresnet18")
    torch.save(ir_names(model.state_dict(), ""), tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"w\.pt: .*RGB and AdaFace's BGR, and nothing .* give colour_order="):
        load_pretrained(tmp_path / "w.pt")
    assert torch.equal(outputs(load_pretrained(tmp_path / "w.pt", colour_order="RGB"), rng), outputs(model, rng))


def test_all_differences_are_listed(rng, tmp_path):
    state = cvlface_vit(trained(rng, "vit_tiny", position_bias="none", image_hw=(8, 8)))
    state["net.blocks.1.norm2.extra"] = state.pop("net.blocks.1.norm2.weight")
    state["net.norm.bias"] = torch.zeros(9)
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(CheckpointError) as error:
        load_pretrained(tmp_path / "w.pt", name="vit_tiny", num_heads=2)
    for line in ("blocks.1.norm2.weight", "blocks.1.norm2.extra", "norm.bias: expected [8], found [9]", "w.pt"):
        assert line in str(error.value)


def change(path, **values):
    """Rewrite a saved config, in both of its places."""
    config = json.loads((path / "config.json").read_text()) | values
    (path / "config.json").write_text(json.dumps(config))
    state = load_file(path / "model.safetensors")
    save_file(state, path / "model.safetensors", {"format": "pt", "config": json.dumps(config)})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "vit_new"}, "unknown model 'vit_new'; models: vit_tiny"),
        ({"settings": {"dim": 3}}, "no such setting: dim; settings: position_bias"),
        ({"settings": [1]}, r"config\.json: settings must be a dict, found \[1\]"),
        ({"format_version": 2, "package_version": "9.1"}, "format_version 2 is not 1, .* by version '9.1'"),
        ({"colour_order": "BGR"}, r"config\.json: colour_order must be RGB, found 'BGR'"),
        ({"format": "other"}, r"config\.json: expected the config of a kprpe-face model or, with the key conf"),
    ],
)
def test_configs_that_are_refused(values, message, rng, tmp_path):
    save_pretrained(trained(rng, "vit_tiny"), tmp_path)
    change(tmp_path, **values)
    with pytest.raises(ValueError, match=message):
        load_pretrained(tmp_path)


def test_files_that_do_not_belong_together(rng, tmp_path):
    save_pretrained(trained(rng, "vit_tiny"), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "name": "vit_small"}))
    with pytest.raises(ValueError, match=r"config\.json is not the config that model\.safetensors was saved with"):
        load_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json: not valid JSON"):
        load_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ValueError, match=r"config\.json: expected a JSON object, found list"):
        load_pretrained(tmp_path)


def test_callers_that_contradict_the_files(rng, tmp_path):
    save_pretrained(trained(rng, "vit_tiny"), tmp_path)
    with pytest.raises(ValueError, match="the model is vit_tiny, name= says vit_base"):
        load_pretrained(tmp_path, name="vit_base")
    with pytest.raises(ValueError, match="the model takes RGB, colour_order= says BGR"):
        load_pretrained(tmp_path, colour_order="BGR")
    with pytest.raises(ValueError, match="colour_order must be one of RGB, BGR, got 'rgb'"):
        load_pretrained(tmp_path, colour_order="rgb")
    with pytest.raises(ValueError, match="no such setting: dropout"):
        load_pretrained(tmp_path, dropout=0.1)
    with pytest.raises(CheckpointError, match="does not fit the model; nothing was restored"):
        load_pretrained(tmp_path, embed_dim=16)


def test_paths_that_hold_no_model(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing\.pt: no such file or folder"):
        load_pretrained(tmp_path / "missing.pt")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(FileNotFoundError, match=r"expected one of model\.safetensors, .*, found notes\.txt"):
        load_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match=r"model\.safetensors: not a safetensors file, or damaged"):
        load_pretrained(tmp_path)
    (tmp_path / "model.yaml").write_text("color_space: YUV\n")
    torch.save({"net.input_layer.0.weight": torch.zeros(1)}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"expected stem\.0\.weight with 4 axes, found \[1\]"):
        load_pretrained(tmp_path / "model.pt")


def test_unknown_colours_of_a_yaml(rng, tmp_path):
    torch.save(ir_names(trained(rng, "iresnet18").state_dict(), "net."), tmp_path / "model.pt")
    (tmp_path / "model.yaml").write_text("color_space: YUV\n")
    with pytest.raises(ValueError, match=r"model\.yaml: color_space must be RGB or BGR, found 'YUV'"):
        load_pretrained(tmp_path)


def test_pickled_objects_are_refused_with_the_way_out(rng, tmp_path):
    """As AdaFace's training writes them."""
    state = ir_names(trained(rng, "iresnet18").state_dict(), "model.")
    torch.save({"state_dict": state, "hyper_parameters": SimpleNamespace(arch="ir_18")}, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match=r"a\.ckpt: refused.*torch\.save\(\{'state_dict'.*a\.pt'\)"):
        load_pretrained(tmp_path / "a.ckpt")


def test_models_that_cannot_be_saved(rng, tmp_path):
    with pytest.raises(ValueError, match="expected a face model itself, got DataParallel; unwrap it first"):
        save_pretrained(torch.nn.DataParallel(trained(rng, "vit_tiny")), tmp_path / "a")
    model = trained(rng, "vit_tiny")
    del model.config
    with pytest.raises(ValueError, match="expected a model of create_model, got a FaceViT without a config"):
        save_pretrained(model, tmp_path / "a")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("bias", ["none", "table", "irpe_bias", "irpe", "kprpe"])
@pytest.mark.parametrize("name", ["vit_tiny", "swin_small"])
def test_every_encoding_there_and_back(name, bias, rng, tmp_path, monkeypatch):
    """Tables that are in no file must be made, whatever the memory held before."""
    real = torch.nn.Module.to_empty

    def filled(self, **options):
        module = real(self, **options)
        for buffer in module.buffers():
            buffer.fill_(10**6)
        return module

    model = trained(rng, name, position_bias=bias)
    save_pretrained(model, tmp_path)
    monkeypatch.setattr(torch.nn.Module, "to_empty", filled)
    loaded = load_pretrained(tmp_path)
    torch.testing.assert_close(outputs(loaded, rng), outputs(model, rng), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        (lambda value: value.to(torch.complex64), "expected numbers, found torch.complex64"),
        (lambda value: value.to(torch.int32), "expected numbers, found torch.int32"),
        (lambda value: value * float("nan"), "holds NaN or infinity"),
        (lambda value: value[:0], r"expected numbers, found torch.float32 \[0"),
    ],
)
def test_weights_that_are_no_weights(changed, problem, rng, tmp_path):
    state = trained(rng, "vit_tiny").state_dict()
    state["patch_embed.proj.weight"] = changed(state["patch_embed.proj.weight"])
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=rf"model.safetensors: .?patch_embed.proj.weight.?: {problem}"):
        load_pretrained(tmp_path / "model.safetensors")


def test_weights_are_readable_for_others(rng, tmp_path):
    save_pretrained(trained(rng, "vit_tiny"), tmp_path)
    modes = {(tmp_path / name).stat().st_mode for name in ("model.safetensors", "config.json")}
    assert len(modes) == 1


def test_a_full_disk_is_said_with_the_file(rng, tmp_path, monkeypatch):
    import safetensors.torch

    def fail(*arguments, **options):
        raise safetensors.SafetensorError("I/O error: No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", fail)
    with pytest.raises(OSError, match=r"model.safetensors: cannot be written .*No space left"):
        save_pretrained(trained(rng, "vit_tiny"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_mistyped_path_is_not_looked_for_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "output").mkdir()
    with pytest.raises(FileNotFoundError, match="output/nope: no such file or folder"):
        load_pretrained("output/nope")
