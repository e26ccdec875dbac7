"""benchmark_kprpe.py on tiny transformers: every row, every ratio, and no ratio between different computations."""

import importlib.util
import json
import os
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from common.rpe import PositionBiasSettings
from common.runtime.benchmark import multiply_adds
from face.models.vit import FaceViT, vit_base, vit_small

SCRIPTS = Path(__file__).parents[2] / "scripts"
CHECKOUT = os.environ.get("CVLFACE_ROOT")
TINY = {"image_hw": (112, 112), "patch_hw": (28, 28), "embed_dim": 16, "num_heads": 2, "num_features": 8}
OURS = {"plain", "table", "irpe", "irpe-k", "kprpe"}
THEIRS = {"authors-plain", "authors-irpe", "authors-kprpe"}


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPTS)
        spec = importlib.util.spec_from_file_location("benchmark_kprpe", SCRIPTS / "benchmark_kprpe.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module


@pytest.fixture
def tiny(script, monkeypatch):
    """The script with transformers of next to nothing, and no authors."""
    monkeypatch.setitem(script.SIZES, "small", partial(FaceViT, depth=2, mlp_ratio=2.0, **TINY))
    monkeypatch.setitem(script.SIZES, "base", partial(FaceViT, depth=3, mlp_ratio=1.0, **TINY))
    small = {"in_channels": 4, "feature_size": (12, 20), "embed_dim": 8, "depths": (2, 1), "num_heads": (2, 4)}
    monkeypatch.setattr(script, "WINDOW_SHAPE", script.WINDOW_SHAPE | small)
    monkeypatch.delenv("CVLFACE_ROOT", raising=False)
    return script


class Theirs(nn.Module):
    """Ours in the clothes of the authors' model."""

    def __init__(self, settings, shape):
        super().__init__()
        side = (shape["img_size"],) * 2, (shape["patch_size"],) * 2
        shared = {name: shape[name] for name in ("embed_dim", "depth", "num_heads", "mlp_ratio")}
        self.net = FaceViT(shape["num_classes"], image_hw=side[0], patch_hw=side[1], position_bias=settings, **shared)
        for parameter in self.net.position_bias.parameters():
            nn.init.normal_(parameter)

    def forward(self, images, keypoints):
        return self.net(images, keypoints)

    def keypoint_features(self, images, keypoints):
        rpe = self.net.position_bias.kprpe
        return torch.zeros(len(images), 16, rpe.num_layers * rpe.num_heads * rpe.num_buckets)


@pytest.fixture
def with_authors(tiny, monkeypatch, tmp_path):
    """A stand-in for the authors' models, so that the comparison runs without a checkout."""
    monkeypatch.setenv("CVLFACE_ROOT", str(tmp_path))
    monkeypatch.setattr(tiny, "prepare_operator", lambda *_: None)
    monkeypatch.setattr(tiny, "load_authors_model", lambda root, name, operator, shape: Theirs(tiny.FACES[name], shape))
    return tiny


def run(script, tmp_path, *options):
    out = tmp_path / "kprpe.json"
    code = script.main(["--rounds", "2", "--batch", "2", "--frames", "2", "--threads", "1", "--device", "cpu",
                        "--out", str(out), *options])  # fmt: skip
    return code, json.loads(out.read_text()) if out.exists() else None


def test_every_part(tiny, tmp_path, capsys):
    code, report = run(tiny, tmp_path)
    assert code == 0
    assert report["settings"] == {"batch": 2, "frames": 2, "rounds": 2, "dtype": "float32"}
    assert report["threads"] == 1
    assert report["versions"]["torch"] == torch.__version__
    assert report["authors_operator"] is None
    tables = [
        (report["faces"]["small"], OURS, "plain", 2),
        (report["faces"]["base"], OURS, "plain", 2),
        (report["window"]["swingait2d"], {"none", "table", "kprpe-window", "kprpe-image"}, "table", 2),
        (report["attention"]["small"], {"plain", "kprpe-fused", "kprpe-explicit", "kprpe-compact"}, "plain", 1),
    ]
    text = capsys.readouterr().out
    for rows, names, base, modes in tables:
        assert set(rows) == names
        for name, row in rows.items():
            assert f"\n{name} " in text
            assert row["parameters"] > 0
            assert row["multiply_adds"] >= rows[base]["multiply_adds"]
            assert row["memory"]["training_peak"] > row["memory"]["inference_peak"] > 0
            assert row["memory"]["kept_for_backward_per_image"] > 0
            timed = [row[mode] for mode in ("inference", "training") if mode in row]
            assert len(timed) == modes
            for measured in timed:
                ratio = measured[f"time_over_{base}"]
                assert 0 < ratio["lower_quartile"] <= ratio["median"] <= ratio["upper_quartile"]
                assert name != base or ratio["median"] == 1
                assert measured["images_per_second"] > 0
    bucket_numbers = 4 * 2 * 2 * 49  # bytes, layers, heads, buckets
    assert bucket_numbers <= report["faces"]["small"]["kprpe"]["memory"]["features_per_image"] < 1.1 * bucket_numbers


def test_only_what_is_asked_for(tiny, tmp_path):
    options = ["--parts", "faces", "--what", "inference", "--models", "kprpe,plain", "--sizes", "small"]
    code, report = run(tiny, tmp_path, *options)
    assert code == 0
    assert set(report["faces"]) == {"small"}
    assert list(report["faces"]["small"]) == ["plain", "kprpe"]
    assert set(report["faces"]["small"]["kprpe"]) == {"parameters", "multiply_adds", "paper_flops", "inference"}
    assert "window" not in report
    assert "attention" not in report


def test_models_share_weights(tiny):
    """All but the position encoding, whose numbers are no longer zeros."""
    options = tiny.check_options(tiny.build_parser().parse_args([]))
    models, apart = tiny.build_faces("small", options, tiny.Authors(None, options))
    assert apart == {}
    plain = dict(models["plain"].named_parameters())
    for name in OURS - {"plain"}:
        for key, value in models[name].named_parameters():
            if key.startswith("position_bias."):
                assert value.abs().min() > 0
            else:
                assert value is plain[key]
    with pytest.raises(ValueError, match=r"other weights than the plain transformer: cls_token"):
        tiny.share(FaceViT(depth=2, mlp_ratio=2.0, absolute=False, class_token=True, **TINY), models["plain"])


def test_comparison_with_the_authors(with_authors, tmp_path, capsys):
    code, report = run(with_authors, tmp_path, "--parts", "faces", "--sizes", "small")
    assert code == 0
    rows = report["faces"]["small"]
    assert set(rows) == OURS | THEIRS
    assert report["authors_operator"] == "compiled"
    for name in ("plain", "irpe", "kprpe"):
        row, theirs = rows[name], rows[f"authors-{name}"]
        assert row["apart_from_authors"]["outputs"] <= 1e-4
        rounds = zip(row["training"]["rounds"], theirs["training"]["rounds"], strict=True)
        assert row["over_authors"]["training_time"]["median"] == pytest.approx(sum(a / b for a, b in rounds) / 2)
        for key in ("inference_peak", "training_peak", "kept_for_backward_per_image"):
            assert row["over_authors"][key] == row["memory"][key] / theirs["memory"][key]
        assert "time_over_authors-plain" in theirs["training"]
    assert rows["kprpe"]["over_authors"]["features_per_image"] == pytest.approx(1 / 16, rel=0.1)  # 16 positions
    assert "kprpe, ours / authors'" in capsys.readouterr().out


def test_no_ratio_between_different_computations(with_authors, monkeypatch, tmp_path, capsys):
    def wrong(root, name, operator, shape):
        theirs = Theirs(with_authors.FACES[name], shape)
        if name == "kprpe":
            theirs.net.position_bias.forward = lambda *_: [None] * 2
        return theirs

    monkeypatch.setattr(with_authors, "load_authors_model", wrong)
    code, report = run(with_authors, tmp_path, "--parts", "faces", "--sizes", "small")
    assert code == 2
    assert report is None
    shown = capsys.readouterr()
    assert "error: kprpe, size small: outputs of ours and the authors'" in shown.err
    assert shown.out == ""


def test_gradients_must_agree_too(script):
    class Other(FaceViT):
        def forward(self, images, keypoints):
            return super().forward(images + (images - images.detach()), keypoints)

    torch.manual_seed(0)
    ours, theirs = FaceViT(depth=2, **TINY), Other(depth=2, **TINY)
    theirs.load_state_dict(ours.state_dict())
    inputs = script.face_inputs(ours, "cpu")(2)
    assert script.check_same(ours, ours, inputs, "") == {"outputs": 0, "gradients": 0}
    with pytest.raises(ValueError, match=r"^twice: gradients of ours and the authors' are 5\.0e-01 apart"):
        script.check_same(ours, theirs, inputs, "twice")


@pytest.mark.parametrize(
    ("build", "parameters", "gigaflops"), [(vit_small, 95.95, 17.42), (vit_base, 114.87, 24.83)], ids=["small", "base"]
)
def test_the_papers_count(script, build, parameters, gigaflops):
    """Table 3 of the paper, of the plain transformers."""
    with torch.device("meta"):
        model = build(PositionBiasSettings(position_bias="none")).eval()
        macs = multiply_adds(lambda: model(torch.zeros(1, 3, 112, 112)))
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == parameters
    assert round(script.paper_flops(model, macs) / 1e9, 2) == gigaflops


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--models", "plain,kp-rpe"], "--models: unknown 'kp-rpe', expected some of plain,table,irpe,irpe-k,kprpe"),
        (["--models", "kprpe"], "--models must hold plain"),
        (["--sizes", "large"], "--sizes: unknown 'large', expected some of small,base"),
        (["--what", "speed,memory"], "--what: unknown 'speed'"),
        (["--parts", ""], "--parts: unknown ''"),
        (["--batch", "1"], "--batch >= 2"),
        (["--rounds", "0"], "--rounds, --frames and --threads must be >= 1"),
        (["--out", "no/such/folder/kprpe.json"], "--out: folder no/such/folder does not exist"),
    ],
)
def test_wrong_options(tiny, capsys, options, message):
    assert tiny.main(options) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ")
    assert message in shown.err
    assert shown.out == ""


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_no_cuda_device(tiny, capsys):
    assert tiny.main(["--device", "cuda"]) == 2
    assert "torch finds no CUDA device" in capsys.readouterr().err


@pytest.mark.parametrize("operator", ["python", "compiled"])
def test_no_checkout(tiny, monkeypatch, tmp_path, capsys, operator):
    monkeypatch.setenv("CVLFACE_ROOT", str(tmp_path / "CVLface"))
    assert tiny.main(["--authors-operator", operator]) == 2
    assert "vit.py does not exist" in capsys.readouterr().err


def test_operator_and_dtype(tiny, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("CVLFACE_ROOT", str(tmp_path))
    assert tiny.main(["--dtype", "bfloat16"]) == 2
    assert "--authors-operator python" in capsys.readouterr().err


@pytest.mark.skipif(not CHECKOUT, reason="CVLFACE_ROOT names no CVLface checkout")
def test_live(tiny, monkeypatch, tmp_path):
    monkeypatch.setenv("CVLFACE_ROOT", CHECKOUT)
    code, report = run(tiny, tmp_path, "--parts", "faces", "--authors-operator", "python")
    assert code == 0
    for size in ("small", "base"):
        rows = report["faces"][size]
        assert set(rows) == OURS | THEIRS
        for name in ("plain", "irpe", "kprpe"):
            assert rows[name]["parameters"] == rows[f"authors-{name}"]["parameters"]
        # A table of 49 values for each of 16 positions, where ours are for the image.
        assert rows["kprpe"]["over_authors"]["features_per_image"] == pytest.approx(1 / 16, rel=0.1)
