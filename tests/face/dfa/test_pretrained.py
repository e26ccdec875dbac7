"""DFA networks in files: this project's folders there and back, released layouts, colours, and every refusal."""

import json
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from common.runtime.checkpoint import CheckpointError
from face.dfa.network import DFANetwork, DFASettings
from face.dfa.pretrained import create_dfa, load_dfa, save_dfa
from face.models import create_model, load_pretrained, save_pretrained

CONF = {
    "name": "differentiable_face_aligner",
    "arch": "mobile0.25",
    "start_from": "",
    "freeze": True,
    "input_padding_ratio": 0,
    "input_padding_val": "zero",
    "input_size": 32,
    "output_size": 112,
    "color_space": "RGB",
}
BESIDE = {"first": ("conv3X3", "conv5X5_1"), "second": ("conv5X5_2", "conv7X7_2"), "third": ("conv7x7_3",)}


def trained(rng, **settings):
    """A network whose weights and running statistics are all random, evaluating."""
    network = create_dfa("dfa_mobilenet", **{"image_hw": (32, 32), **settings})
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if name.endswith("running_var") or (name.endswith("weight") and value.ndim == 1):
                value.copy_(0.7 + 0.6 * torch.rand(value.shape, generator=rng))
            elif value.is_floating_point():
                value.copy_(torch.randn(value.shape, generator=rng) / max(1, value[:1].numel()) ** 0.5)
    return network.eval()


def outputs(network, rng, flip=False):
    rng.manual_seed(3)
    images = torch.rand(2, 3, *network.image_hw, generator=rng) * 2 - 1
    with torch.no_grad():
        return [value for value in network(images.flip(1) if flip else images) if value is not None]


def same(network, other, rng):
    return all(torch.equal(a, b) for a, b in zip(outputs(network, rng), outputs(other, rng), strict=True))


def their_names(network, prefix=""):
    """The weights as CVLface names them, for BGR."""
    out = {}
    for name, value in network.state_dict().items():
        kind, *rest = name.split(".")
        if kind == "body":
            stage, block, *rest = rest[1:]
            place = (".".join(rest[:1]), rest[1:])
            if (stage, block) != ("0", "0"):  # depthwise, then pointwise: 0 and 1, 3 and 4
                place = (str(3 * int(rest[0]) + int(rest[1])), rest[2:])
            name = f"body.stage{int(stage) + 1}.{block}.{place[0]}.{'.'.join(place[1])}"
            parts = {name: value.flip(1) if value.shape[1:] == (3, 3, 3) else value}
        elif kind == "pyramid":
            layer = {"lateral": "output", "merge": "merge"}[rest[0]]
            parts = {f"fpn.{layer}{int(rest[1]) + 1}.{'.'.join(rest[2:])}": value}
        elif kind == "contexts":
            names = [f"ssh{int(rest[0]) + 1}.{layer}.{'.'.join(rest[2:])}" for layer in BESIDE[rest[1]]]
            sizes = {"first": [32, 16], "second": [16, 16], "third": [16]}[rest[1]]
            values = value.split(sizes) if value.ndim else [value] * len(names)
            parts = dict(zip(names, values, strict=True))
        elif kind == "heads":
            anchors = value.unflatten(0, (-1, 16)).split([4, 2, 10], dim=1)
            heads = ("BboxHead", "ClassHead", "LandmarkHead")
            parts = {
                f"{head}.{rest[0]}.conv1x1.{rest[1]}": its.flatten(0, 1)
                for head, its in zip(heads, anchors, strict=True)
            }
        else:
            parts = {name: value}
        out |= {prefix + key: part.clone() for key, part in parts.items()}
    return out


def test_names():
    assert create_dfa("dfa_mobilenet").settings == DFASettings()
    network = create_dfa("dfa_resnet50", image_hw=[64, 96], aggregator=False)
    assert network.settings == DFASettings(body="resnet50", image_hw=(64, 96), aggregator=False)
    with pytest.raises(ValueError, match="unknown network 'dfa'; networks: dfa_mobilenet, dfa_resnet50"):
        create_dfa("dfa")
    with pytest.raises(ValueError, match="dfa_mobilenet: 1 problem"):
        create_dfa("dfa_mobilenet", image_size=3)
    with pytest.raises(ValueError, match=r"dfa_mobilenet has the body mobilenet0\.25, got 'resnet50'"):
        create_dfa("dfa_mobilenet", body="resnet50")


@pytest.mark.parametrize(
    "settings", [{}, {"image_hw": (32, 48), "anchor_sizes": ((8,), (16,), (32,))}, {"aggregator": False}]
)
def test_there_and_back(settings, rng, tmp_path):
    network = trained(rng, **settings)
    folder = tmp_path / "new" / "folder"
    save_dfa(network, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    for source in (folder, str(folder), folder / "model.safetensors"):
        loaded = load_dfa(source)
        assert same(loaded, network, rng)
        assert loaded.settings == network.settings
        assert not loaded.training
        assert (loaded.origin.layout, loaded.origin.colour_order) == ("kprpe", "RGB")
    alone = tmp_path / "alone.safetensors"  # the weights carry their config
    (folder / "model.safetensors").rename(alone)
    assert same(load_dfa(alone), network, rng)


def test_what_a_config_says(rng, tmp_path):
    save_dfa(trained(rng, image_hw=(32, 48)), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["format"], config["format_version"], config["name"]) == ("kprpe-dfa", 1, "dfa_mobilenet")
    assert config["settings"]["image_hw"] == config["image_hw"] == [32, 48]
    assert (config["colour_order"], config["image_range"]) == ("RGB", [-1, 1])


def test_a_resnet_there_and_back(rng, tmp_path):
    network = create_dfa("dfa_resnet50", image_hw=(32, 32)).eval()
    save_dfa(network, tmp_path)
    assert same(load_dfa(tmp_path), network, rng)


def test_a_checkpoint_of_training(rng, tmp_path):
    network = trained(rng)
    state = {f"module.{name}": value for name, value in network.state_dict().items()}
    torch.save({"model": state, "iteration": 3}, tmp_path / "run-00003.pt")
    loaded = load_dfa(tmp_path / "run-00003.pt", image_hw=(32, 32))
    assert same(loaded, network, rng)
    assert loaded.origin.colour_order == "RGB"


@pytest.mark.parametrize("layout", ["hub", "hub without safetensors", "training", "bare", "state_dict"])
def test_released_layouts_of_cvlface(layout, rng, tmp_path):
    """With code beside the weights, which must not be run. They take BGR, the loaded network takes RGB."""
    network = trained(rng)
    (tmp_path / "wrapper.py").write_text("raise SystemExit('run')")
    settings, source = {}, tmp_path
    if layout == "bare":
        torch.save(their_names(network, "module."), tmp_path / "mobilenet0.25.pth")
        settings = {"image_hw": (32, 32)}
    elif layout == "state_dict":
        source = tmp_path / "weights.pth"
        torch.save({"state_dict": their_names(network, "module."), "epoch": 9}, source)
        settings = {"image_hw": (32, 32)}
    elif layout == "training":
        torch.save(their_names(network, "net."), tmp_path / "model.pt")
        (tmp_path / "model.yaml").write_text(yaml.safe_dump(CONF))
    else:
        (tmp_path / "config.json").write_text(json.dumps({"architectures": ["CVLFaceAlignmentModel"], "conf": CONF}))
        (tmp_path / "pretrained_model").mkdir()
        torch.save(their_names(network, "net."), tmp_path / "pretrained_model" / "model.pt")
        (tmp_path / "pretrained_model" / "model.yaml").write_text(yaml.safe_dump(CONF))
        if layout == "hub":
            save_file(their_names(network, "model.net."), tmp_path / "model.safetensors", {"format": "pt"})
    loaded = load_dfa(source, **settings)
    assert same(loaded, network, rng)
    assert loaded.settings == network.settings
    assert (loaded.origin.layout, loaded.origin.colour_order) == ("cvlface", "BGR")
    save_dfa(loaded, tmp_path / "again")  # from here on it is a network of RGB
    assert same(load_dfa(tmp_path / "again"), network, rng)


def test_a_repository_of_the_hub(rng, tmp_path, monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import RemoteEntryNotFoundError

    def fetch(repository, file):
        assert repository == "minchul/cvlface_DFA_mobilenet"
        if not (tmp_path / file).is_file():
            raise RemoteEntryNotFoundError.__new__(RemoteEntryNotFoundError)
        return str(tmp_path / file)

    network = trained(rng)
    save_file(their_names(network, "model.net."), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"conf": CONF}))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    monkeypatch.chdir(tmp_path.parent)
    assert same(load_dfa("minchul/cvlface_DFA_mobilenet"), network, rng)


def test_all_differences_are_listed(rng, tmp_path):
    state = their_names(trained(rng))
    state["body.stage2.1.7.weight"] = state.pop("body.stage2.1.3.weight")
    state["fpn.merge1.1.bias"] = torch.zeros(9)
    del state["ssh2.conv5X5_1.1.bias"]
    state["ClassHead.1.conv1x1.bias"] = torch.zeros(5)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(CheckpointError) as error:
        load_dfa(tmp_path / "w.pth", image_hw=(32, 32))
    for line in (
        "body.stages.1.1.1.0.weight", "body.stage2.1.7.weight", "pyramid.merge.0.1.bias: expected [64], found [9]",
        "contexts.1.first.1.bias", "ssh2.conv3X3.1.bias", "heads.1.bias", "ClassHead.1.conv1x1.bias", "w.pth",
    ):  # fmt: skip
        assert line in str(error.value)


def test_weights_for_images_of_another_size(rng, tmp_path):
    torch.save(their_names(trained(rng)), tmp_path / "w.pth")
    with pytest.raises(
        ValueError, match=r"the aggregator is of 42 anchors, images of 160 x 160 px have 1050; give image_"
    ):
        load_dfa(tmp_path / "w.pth")


def test_weights_that_may_be_of_retinaface(rng, tmp_path):
    network = trained(rng, aggregator=False)
    torch.save(their_names(network, "module."), tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"without an aggregator may be of RetinaFace.*give aggregator=False"):
        load_dfa(tmp_path / "w.pth", image_hw=(32, 32))
    assert same(load_dfa(tmp_path / "w.pth", image_hw=(32, 32), aggregator=False), network, rng)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "retinaface_aligner"}, "name must be differentiable_face_aligner, found 'retinaface_aligner'"),
        ({"arch": "mobile0.5"}, r"arch must be one of mobile0\.25, resnet50, found 'mobile0\.5'"),
        ({"arch": "resnet50"}, r"body is mobilenet0\.25 by its weights, resnet50 was given"),
        ({"input_size": "160"}, "input_size must be a number of pixels, found '160'"),
    ],
)
def test_configs_of_cvlface_that_are_refused(values, message, rng, tmp_path):
    torch.save(their_names(trained(rng), "net."), tmp_path / "model.pt")
    (tmp_path / "model.yaml").write_text(yaml.safe_dump({**CONF, **values}))
    with pytest.raises(ValueError, match=message):
        load_dfa(tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "dfa_new"}, r"config\.json: unknown network 'dfa_new'; networks: dfa_mobilenet"),
        ({"settings": {"dim": 3}}, "dim: unknown key"),
        ({"settings": [1]}, r"config\.json: settings must be a dict, found \[1\]"),
        ({"format_version": 2, "package_version": "9.1"}, "format_version 2 is not 1, .* by version '9.1'"),
        ({"colour_order": "BGR"}, r"config\.json: colour_order must be RGB, found 'BGR'"),
    ],
)
def test_configs_that_are_refused(values, message, rng, tmp_path):
    save_dfa(trained(rng), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | values
    (tmp_path / "config.json").write_text(json.dumps(config))
    state = load_file(tmp_path / "model.safetensors")
    save_file(state, tmp_path / "model.safetensors", {"format": "pt", "config": json.dumps(config)})
    with pytest.raises(ValueError, match=message):
        load_dfa(tmp_path)


def test_networks_of_another_kind(rng, tmp_path):
    save_dfa(trained(rng), tmp_path / "dfa")
    save_pretrained(create_model("vit_tiny", image_hw=(16, 16), depth=1), tmp_path / "vit")
    with pytest.raises(ValueError, match=r"expected a kprpe-face model, found a kprpe-dfa model"):
        load_pretrained(tmp_path / "dfa")
    with pytest.raises(ValueError, match=r"expected a kprpe-dfa model, found a kprpe-face model"):
        load_dfa(tmp_path / "vit")
    torch.save({"blocks.0.attn.qkv.weight": torch.zeros(1)}, tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"w\.pt: not the weights of a DFA network.*found blocks\.0\.attn\.qkv"):
        load_dfa(tmp_path / "w.pt")


def test_pickled_objects_are_refused(rng, tmp_path):
    torch.save({"state_dict": their_names(trained(rng)), "args": SimpleNamespace()}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"w\.pth: refused.*torch\.save\(\{'state_dict'.*w\.pt'\)"):
        load_dfa(tmp_path / "w.pth")


def test_paths_that_hold_no_network(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing\.pth: no such file or folder"):
        load_dfa(tmp_path / "missing.pth")
    with pytest.raises(
        FileNotFoundError, match=r"expected one of model\.safetensors, .*mobilenet0\.25\.pth.*, found noth"
    ):
        load_dfa(tmp_path)


def test_networks_that_cannot_be_saved(rng, tmp_path):
    with pytest.raises(ValueError, match="expected a DFANetwork itself, got DataParallel; unwrap it first"):
        save_dfa(torch.nn.DataParallel(trained(rng)), tmp_path / "a")
    with pytest.raises(ValueError, match="copy of for_inference cannot be saved; save the network that it was made of"):
        save_dfa(trained(rng).for_inference(), tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_anchors_are_made_on_loading(rng, tmp_path, monkeypatch):
    """They are in no file, whatever the memory held before."""
    real = torch.nn.Module.to_empty

    def filled(self, **options):
        module = real(self, **options)
        for buffer in module.buffers():
            buffer.fill_(9)
        return module

    save_dfa(trained(rng), tmp_path)
    monkeypatch.setattr(torch.nn.Module, "to_empty", filled)
    loaded = load_dfa(tmp_path)
    assert torch.equal(loaded.anchors, DFANetwork(loaded.settings).anchors)
