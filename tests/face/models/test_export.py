"""ONNX files against PyTorch in onnxruntime, for batches of other sizes than the one traced."""

import importlib.util
from types import SimpleNamespace

import pytest
import torch

from face.models import export
from face.models.export import check_onnx, export_onnx
from face.models.registry import create_model

MISSING = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
onnx_files = pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)} not installed")
TINY = {
    "vit_tiny": {"image_hw": (8, 12), "patch_hw": (4, 4), "embed_dim": 8, "depth": 1, "num_heads": 2},
    "swin_small": {
        "image_hw": (19, 25),
        "embed_dim": 4,
        "depths": (2, 1),
        "num_heads": (1, 2),
        "window_size": (3, 3),
    },
    "iresnet18": {"image_hw": (16, 24), "width": 4, "depths": (1, 1, 1, 1)},
}


def trained(rng, name, **settings):
    model = create_model(name, num_features=6, **{**TINY[name], **settings})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.5, generator=rng)
    return model


def run(path, **inputs):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [node.name for node in session.get_inputs()] == list(inputs)
    assert [node.name for node in session.get_outputs()] == ["embeddings"]
    return torch.from_numpy(session.run(None, {name: value.numpy() for name, value in inputs.items()})[0])


@onnx_files
@pytest.mark.parametrize("name", ["vit_tiny", pytest.param("swin_small", marks=pytest.mark.slow), "iresnet18"])
def test_files_compute_what_the_models_compute(name, rng, tmp_path):
    model = trained(rng, name).train()
    difference = export_onnx(model, tmp_path / "model.onnx")
    assert 0 <= difference <= 1e-4
    assert model.training
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    model.eval()
    for batch in (1, 2, 5):
        inputs = {"images": torch.randn(batch, 3, *model.image_hw, generator=rng)}
        if model.needs_keypoints:
            inputs["keypoints"] = torch.rand(batch, 5, 2, generator=rng)
        with torch.no_grad():
            expected = model(**inputs)
        torch.testing.assert_close(run(tmp_path / "model.onnx", **inputs), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match=r"model\.onnx: the file's embeddings differ from the model's by .*batch of 1"):
        check_onnx(trained(rng, name), tmp_path / "model.onnx")
    if model.needs_keypoints:
        with pytest.raises(ValueError, match="expected the inputs images, found images, keypoints"):
            check_onnx(trained(rng, name, position_bias="none"), tmp_path / "model.onnx")


@onnx_files
@pytest.mark.slow
def test_visibility_and_a_fixed_batch(rng, tmp_path):
    model = trained(rng, "vit_tiny")
    path = tmp_path / "model.onnx"
    assert export_onnx(model, path, batch=2, visibility=True) <= 1e-4
    inputs = {
        "images": torch.randn(2, 3, 8, 12, generator=rng),
        "keypoints": torch.rand(2, 5, 2, generator=rng),
        "visibility": torch.rand(2, 5, generator=rng),
    }
    with torch.no_grad():
        torch.testing.assert_close(run(path, **inputs), model.eval()(**inputs), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="expected the inputs images, keypoints, found images, keypoints, visibility"):
        check_onnx(model, path)


@onnx_files
def test_a_file_that_fails_the_check_is_not_written(rng, tmp_path, monkeypatch):
    def fail(model, path, **_):
        assert path.read_bytes() == b"a program"
        raise ValueError("differs")

    program = SimpleNamespace(
        model=SimpleNamespace(metadata_props={}), save=lambda path: path.write_bytes(b"a program")
    )
    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: program)
    monkeypatch.setattr(export, "check_onnx", fail)
    with pytest.raises(ValueError, match="differs"):
        export_onnx(trained(rng, "vit_tiny"), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
    assert program.model.metadata_props["keypoints"] == "(x, y) as fractions of the image"


@onnx_files
def test_what_cannot_be_exported(rng, tmp_path):
    model = trained(rng, "iresnet18")
    for batch in (0, "any", 1.5):
        with pytest.raises(ValueError, match=f"batch must be dynamic or a number >= 1, got {batch!r}"):
            export_onnx(model, tmp_path / "a.onnx", batch=batch)
    with pytest.raises(ValueError, match="takes no keypoints, so there is no visibility"):
        export_onnx(model, tmp_path / "a.onnx", visibility=True)
    with pytest.raises(FileNotFoundError, match="missing: no such folder"):
        export_onnx(model, tmp_path / "missing" / "a.onnx")
    with pytest.raises(ValueError, match=r"on the CPU in float32, got cpu and torch\.float64"):
        export_onnx(model.double(), tmp_path / "a.onnx")


def test_missing_packages_are_named(rng, tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: found(name, *rest) if "onnx" not in name else None
    )
    with pytest.raises(ModuleNotFoundError, match="need onnx, onnxscript, onnxruntime: pip install onnx onnxscript"):
        export_onnx(trained(rng, "iresnet18"), tmp_path / "a.onnx")
