"""Face models as ONNX files: images (and keypoints) in, embeddings out, checked against PyTorch in onnxruntime.

Needs the packages onnx, onnxscript and onnxruntime.
Shape letters: B batch, L keypoints, E embedding channels.
"""

import importlib.util
import warnings
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from common.runtime.files import whole_file
from face.models.base import FaceModel

__all__ = ["check_onnx", "export_onnx"]

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_TOLERANCE = 1e-4
# Batches that a file of any batch size is checked with.
_BATCHES = (1, 3)


def export_onnx(
    model: FaceModel, path: str | Path, *, batch: int | Literal["dynamic"] = "dynamic", visibility: bool = False
) -> float:
    """Write a model, as it computes while evaluating, and check the file; one that fails is not written.

    The file's inputs are `images` [B, 3, h, w] RGB in [-1, 1] and, where the model needs them, `keypoints` [B, L, 2],
    (x, y) as fractions of the image; its output is `embeddings` [B, E], not normalised. All are float32.

    Args:
        model: on the CPU, float32.
        path: the file to write; its folder must be there.
        batch: B, or "dynamic" for any.
        visibility: whether `visibility` [B, L] in [0, 1] is a third input.

    Returns:
        The largest difference that `check_onnx` found.

    Raises:
        ModuleNotFoundError: one of the packages is missing.
        ValueError: a model that is not on the CPU in float32, a bad batch, visibility for a model without keypoints, or
            a file that computes something else.
        OSError: the file cannot be written.
    """
    _check_packages()
    if batch != "dynamic" and (not isinstance(batch, int) or batch < 1):
        raise ValueError(f"batch must be dynamic or a number >= 1, got {batch!r}")
    if visibility and not model.needs_keypoints:
        raise ValueError("this model takes no keypoints, so there is no visibility either")
    weight = next(model.parameters())
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        raise ValueError(f"the model must be on the CPU in float32, got {weight.device} and {weight.dtype}")
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: no such folder")
    # Traced with more than one image: a batch of one would be taken for a constant.
    inputs = _inputs(model, 2 if batch == "dynamic" else batch, visibility)
    axes = {0: torch.export.Dim("batch")} if batch == "dynamic" else None
    training = model.training
    try:
        with warnings.catch_warnings(), torch.no_grad():
            model.eval()(**inputs)  # tables that are made once are made before the tracing
            warnings.simplefilter("ignore")  # the exporter's own, of names of axes and of functions it will give up
            program = torch.onnx.export(
                model.eval(),
                tuple(inputs.values()),
                dynamo=True,
                input_names=list(inputs),
                output_names=["embeddings"],
                dynamic_shapes=tuple(axes for _ in inputs) if axes else None,
                verbose=False,
            )
    finally:
        model.train(training)
    if program is None:
        raise RuntimeError("torch.onnx.export gave nothing")
    program.model.metadata_props.update({"colour_order": "RGB", "image_range": "[-1, 1]"})
    if model.needs_keypoints:
        program.model.metadata_props["keypoints"] = "(x, y) as fractions of the image"
    with whole_file(path) as partial:
        program.save(partial)
        return check_onnx(model, partial, visibility=visibility, shown=path)


def check_onnx(model: FaceModel, path: str | Path, *, visibility: bool = False, shown: Path | None = None) -> float:
    """Compare the embeddings of a file in onnxruntime with those of the model, for random images and keypoints.

    Args:
        model: what the file was made from, on the CPU.
        path: the file.
        visibility: whether it has that input.
        shown: what errors call the file.

    Returns:
        The largest difference, over the largest embedding value where that is above 1.

    Raises:
        ModuleNotFoundError: onnxruntime is missing.
        ValueError: a difference above 1e-4, or inputs other than the model's.
    """
    _check_packages()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    shown = shown or Path(path)
    expected_names = list(_inputs(model, 1, visibility))
    found_names = [node.name for node in session.get_inputs()]
    if found_names != expected_names:
        raise ValueError(f"{shown}: expected the inputs {', '.join(expected_names)}, found {', '.join(found_names)}")
    fixed = session.get_inputs()[0].shape[0]
    largest = 0.0
    training = model.training
    for size in (fixed,) if isinstance(fixed, int) else _BATCHES:
        inputs = _inputs(model, size, visibility)
        with torch.no_grad():
            expected = model.eval()(**inputs)
        model.train(training)
        found = torch.from_numpy(session.run(None, {name: value.numpy() for name, value in inputs.items()})[0])
        if found.shape != expected.shape:
            raise ValueError(f"{shown}: expected embeddings {list(expected.shape)}, found {list(found.shape)}")
        difference = float((found - expected).abs().max()) / max(1.0, float(expected.abs().max()))
        if not difference <= _TOLERANCE:
            raise ValueError(
                f"{shown}: the file's embeddings differ from the model's by {difference:.1e} of the largest value, "
                f"more than {_TOLERANCE:g} (batch of {size})"
            )
        largest = max(largest, difference)
    return largest


def _inputs(model: FaceModel, batch: int, visibility: bool) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(batch)
    inputs = {"images": torch.rand(batch, 3, *model.image_hw, generator=random) * 2 - 1}
    if model.needs_keypoints:
        points = model.config.settings["num_keypoints"]
        inputs["keypoints"] = torch.rand(batch, points, 2, generator=random)
        if visibility:
            inputs["visibility"] = torch.rand(batch, points, generator=random)
    return inputs


def _check_packages() -> None:
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(f"ONNX files need {', '.join(missing)}: pip install {' '.join(_PACKAGES)}")
