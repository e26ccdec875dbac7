"""Time the augmentation of face images, on one core, beside torchvision and beside the KP-RPE authors' own.

    CVLFACE_ROOT=path/to/CVLface python scripts/benchmark_face_augment.py --out scripts/results/face_augment.json

Ours is timed with its presets and step by step. torchvision's v2 transforms do the same steps with the same
probabilities on uint8 tensors, keypoints moving with the image where this torchvision has KeyPoints (left and right are
not swapped); where it has no such operation, the nearest one: one erased rectangle for cutout, a Gaussian for the
average. The authors' augmenters run unchanged on PIL images, without landmarks, which move later in their pipeline (so
ours is timed without them too); OpenCV stands in for the three functions they take from imgaug and albumentations.
Conversion to and from tensors and PIL is nobody's time. Without CVLFACE_ROOT the authors' are left out.

All take turns within one process and one thread, and seconds are those of the processor: what is asked for is images
per second of one core, and waiting for it while others are at work is no part of that. `share_of_a_core` is what the
process had of one; well below 1, caches were shared with others too, and ratios are what to go by.
"""

import argparse
import contextlib
import importlib
import io
import json
import os
import sys
import time
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np
import torch
import torchvision
import yaml
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from common.keypoints import fractions_to_pixels
from common.runtime.benchmark import environment, ratios, spread
from common.runtime.files import write_text
from common.runtime.progress import progress_bar
from face.augment import AugmentationSettings, FaceAugmentation

SIDE = 112
KEYPOINTS = np.array([[0.34, 0.46], [0.66, 0.46], [0.5, 0.64], [0.37, 0.82], [0.63, 0.82]], np.float32)
OURS, OURS_ALONE, TORCHVISION, AUTHORS = "ours", "ours without keypoints", "torchvision", "authors"
MODULES = "cvlface/research/recognition/code/run_v1"
CONFIGS = {"table 6": "gridsample_v1", "basic": "basic_v1"}

Augment = Callable[[int], object]  # from an image's number


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code: 0, or 2 for wrong input."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=100, metavar="N", help="of a measurement (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=25, metavar="N", help="rounds (default: %(default)s)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON file to write")
    options = parser.parse_args(argv)
    if min(options.images, options.repeats) < 1:
        parser.error("--images and --repeats must be >= 1")
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    try:
        report = run(options.images, options.repeats, os.environ.get("CVLFACE_ROOT"))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    text = json.dumps(report, indent=2)
    print(text)
    if options.out:
        write_text(options.out, text + "\n")
    return 0


def run(count: int, repeats: int, root: str | None) -> dict[str, Any]:
    """Everything that is reported."""
    images = draw_images(count)
    tensors = [torch.from_numpy(image).permute(2, 0, 1).contiguous() for image in images]
    pictures = [Image.fromarray(image) for image in images]
    authors = load_authors(Path(root)) if root else None
    rows: dict[str, Any] = {}
    for name, settings in cases().items():
        steps: dict[str, Augment] = {OURS: ours(settings, images), TORCHVISION: theirs(settings, tensors)}
        if name in CONFIGS:
            steps[OURS_ALONE] = ours(settings, images, keypoints=None)
        if authors is not None and name in CONFIGS:
            steps[AUTHORS] = authors_augment(authors, name, pictures)
        rows[name] = compare(name, steps, count, repeats)
    versions = {"opencv": cv2.__version__, "torchvision": torchvision.__version__}
    about = {"cv2_threads": 1, "side_px": SIDE, "images": count, "torchvision_moves_keypoints": moves_keypoints()}
    return {**environment("cpu"), **versions, **about, "cases": rows}


def draw_images(count: int) -> list[np.ndarray]:
    """Smooth coloured noise, about as contrasty as photographs: [112, 112, 3] uint8 each."""
    rng = np.random.default_rng(0)
    noise = (cv2.GaussianBlur(rng.uniform(0, 255, (SIDE, SIDE, 3)), (0, 0), 4) for _ in range(count))
    return [np.clip(128 + 8 * (smooth - 128), 0, 255).astype(np.uint8) for smooth in noise]


def cases() -> dict[str, AugmentationSettings]:
    """What is timed, by name: both presets, and each step of the first alone."""
    nothing, table = AugmentationSettings.none(), AugmentationSettings()
    return {
        "table 6": table,
        "basic": AugmentationSettings.basic(),
        "geometry alone": replace(table, cutout_prob=0.0, blur_prob=0.0, randaug_ops=0),
        "cutout alone": replace(nothing, cutout_prob=table.cutout_prob),
        "blur alone": replace(nothing, blur_prob=table.blur_prob),
        "RandAug alone": replace(nothing, randaug_ops=table.randaug_ops),
    }


def compare(name: str, steps: dict[str, Augment], count: int, repeats: int) -> dict[str, Any]:
    """One case, by each in every round."""
    loops = {who: partial(_over_all, augment, count) for who, augment in steps.items()}
    used, begun = time.process_time(), time.perf_counter()
    times = time_processor(loops, repeats, name)
    share = (time.process_time() - used) / (time.perf_counter() - begun)
    row: dict[str, Any] = {
        "share_of_a_core": share,
        "images_per_second": {who: count / spread(found)["median"] for who, found in times.items()},
        "microseconds_an_image": {
            who: spread([1e6 * seconds / count for seconds in found]) for who, found in times.items()
        },
    }
    for who in steps:
        if who != OURS:
            row[f"{who.replace(' ', '_')}_over_ours"] = ratios(times[who], times[OURS])
    return row


def time_processor(steps: Mapping[str, Callable[[], object]], repeats: int, title: str) -> dict[str, list[float]]:
    """Processor seconds of each step in each round, all steps taking turns; a first round does not count."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in progress_bar(range(-1, repeats), desc=title):
        for name, step in steps.items():
            begun = time.process_time()
            step()
            if turn >= 0:
                times[name].append(time.process_time() - begun)
    return times


def _over_all(augment: Augment, count: int) -> None:
    for number in range(count):
        augment(number)


def ours(
    settings: AugmentationSettings, images: Sequence[np.ndarray], keypoints: np.ndarray | None = KEYPOINTS
) -> Augment:
    """Image and keypoints, augmented by us."""
    augment, rng = FaceAugmentation(settings, (SIDE, SIDE)), np.random.default_rng(0)
    return lambda number: augment(images[number], keypoints, rng)


def theirs(settings: AugmentationSettings, tensors: Sequence[Tensor]) -> Augment:
    """Image and keypoints, augmented by torchvision's transforms."""
    torch.manual_seed(0)
    together, image_alone = torchvision_geometry(settings), torchvision_pixels(settings)
    images = [tv_tensors.Image(tensor) for tensor in tensors]
    if moves_keypoints():
        pixels = torch.from_numpy(fractions_to_pixels(KEYPOINTS, (SIDE, SIDE)))
        points = tv_tensors.KeyPoints(pixels, canvas_size=(SIDE, SIDE))  # type: ignore[call-arg,unused-ignore]
    else:
        points = None

    def augment(number: int) -> object:
        image, moved = together(images[number], points) if points is not None else (together(images[number]), None)
        return image_alone(image), moved

    return augment


def moves_keypoints() -> bool:
    """Whether this torchvision knows keypoints."""
    return hasattr(tv_tensors, "KeyPoints")


def torchvision_geometry(settings: AugmentationSettings) -> v2.Transform:
    """Mirror and affine: what keypoints must take part in."""
    steps: list[v2.Transform] = []
    if settings.flip_prob:
        steps.append(v2.RandomHorizontalFlip(settings.flip_prob))
    if settings.scale_range != (1.0, 1.0):
        affine = partial(
            v2.RandomAffine,
            translate=(settings.translation_extra, settings.translation_extra),
            scale=settings.scale_range,
            interpolation=v2.InterpolationMode.BILINEAR,
        )
        share = settings.rotation_prob
        steps.append(v2.RandomChoice([affine(0), affine(settings.rotation_degrees)], p=[1 - share, share]))
    return v2.Compose(steps or [v2.Identity()])


def torchvision_pixels(settings: AugmentationSettings) -> v2.Transform:
    """Cutout, blur, and colour."""
    steps: list[v2.Transform] = []
    if settings.cutout_prob:
        steps.append(v2.RandomErasing(settings.cutout_prob, scale=(0.1, 0.8), ratio=settings.cutout_aspect))
    if settings.blur_prob:
        average, gaussian, resolution = settings.blur_shares
        smallest = int(settings.blur_resize_range[0] * SIDE)
        kinds = [
            v2.GaussianBlur(9, sigma=(0.1, settings.blur_sigma_px)),
            v2.Compose([v2.RandomResize(smallest, SIDE), v2.Resize((SIDE, SIDE))]),
        ]
        chosen = v2.RandomChoice(kinds, p=[average + gaussian, resolution])
        steps.append(v2.RandomApply([chosen], p=settings.blur_prob))
    steps += [_torchvision_randaug() for _ in range(settings.randaug_ops)]
    if settings.jitter_prob:
        amounts = (settings.jitter_brightness, settings.jitter_contrast, settings.jitter_saturation)
        steps.append(v2.RandomApply([v2.ColorJitter(*amounts)], p=settings.jitter_prob))
    return v2.Compose(steps or [v2.Identity()])


def _torchvision_randaug() -> v2.Transform:
    """One operation as the authors draw it, at the ends of their strengths' range."""
    factors = (0.34, 1.66)
    operations = [
        v2.Identity(),
        v2.ColorJitter(brightness=factors),
        v2.ColorJitter(saturation=factors),
        v2.ColorJitter(contrast=factors),
        v2.RandomChoice([v2.RandomAdjustSharpness(factor, p=1.0) for factor in factors]),
        v2.RandomEqualize(p=1.0),
        v2.Grayscale(3),
    ]
    return v2.RandomChoice(operations, p=[67 / 343] * 5 + [4 / 343] * 2)


def load_authors(root: Path) -> types.ModuleType:
    """Their package `data_augs`, imported from a checkout as it is; see the head of this file for what stands in.

    Raises:
        FileNotFoundError: no such checkout.
    """
    folder = root / MODULES
    if not (folder / "data_augs" / "gridsample_augmenter.py").is_file():
        raise FileNotFoundError(f"CVLFACE_ROOT: {folder / 'data_augs'} does not exist or has no augmenter")
    augmenters = types.ModuleType("imgaug.augmenters")
    vars(augmenters).update(AverageBlur=_AverageBlur, GaussianBlur=_GaussianBlur)
    imgaug = types.ModuleType("imgaug")
    vars(imgaug).update(augmenters=augmenters)
    albumentations = types.ModuleType("albumentations")
    vars(albumentations).update(CoarseDropout=_CoarseDropout)
    stand_ins = {"imgaug": imgaug, "imgaug.augmenters": augmenters, "albumentations": albumentations}
    with (
        mock.patch.dict(sys.modules, stand_ins),
        mock.patch.object(sys, "path", [str(folder), *sys.path]),
        mock.patch.object(sys, "dont_write_bytecode", True),  # the checkout is not ours to write to
    ):
        return importlib.import_module("data_augs")


class _AverageBlur:
    def __init__(self, k: int) -> None:
        self.k = k

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return cv2.blur(image, (self.k, self.k))


class _GaussianBlur:
    def __init__(self, sigma: float) -> None:
        self.sigma = sigma

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(image, (0, 0), max(self.sigma, 1e-3))


class _CoarseDropout:
    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def __call__(self, image: np.ndarray) -> dict[str, np.ndarray]:
        side, out = self.settings["max_height"], image.copy()
        count = np.random.randint(self.settings["min_holes"], self.settings["max_holes"] + 1)
        for top, left in np.random.randint(0, SIDE - side + 1, (count, 2)):
            out[top : top + side, left : left + side] = 0
        return {"image": out}


def authors_augment(package: types.ModuleType, name: str, pictures: Sequence[Image.Image]) -> Augment:
    """A picture augmented by the authors' own augmenter, with the values of their config."""
    np.random.seed(0)
    config = Path(package.__path__[0]) / "configs" / f"{CONFIGS[name]}.yaml"
    settings = yaml.safe_load(config.read_text(encoding="utf-8"))
    with contextlib.redirect_stdout(io.StringIO()):  # it says its name
        augmenter = package.make_augmenter(settings["augmentation_version"], _Attributes(settings["aug_params"]))
    return lambda number: augmenter.augment(pictures[number])


class _Attributes(dict[str, Any]):
    """What their code uses of their settings."""

    __getattr__ = dict.__getitem__


if __name__ == "__main__":
    raise SystemExit(main())
