"""insightface's norm_crop, run by its file as it is, from a checkout. It needs scikit-image.

Run as a script, with INSIGHTFACE_ROOT set, it writes what tests compare with where no checkout is at hand:
`python tests/parity/face_alignment.py`.
"""

import importlib.util
import os
import sys
import warnings
from pathlib import Path
from unittest import mock

import numpy as np

STORED = Path(__file__).with_name("face_alignment.npz")
SOURCE = "python-package/insightface/utils/face_align.py"
IMAGE_HW = (90, 130)
STRIDE = 4  # of the pixels that are stored
TEMPLATE = np.array([[0.34, 0.46], [0.66, 0.46], [0.5, 0.64], [0.37, 0.82], [0.63, 0.82]])


def image() -> np.ndarray:
    """[*IMAGE_HW, 3] float32 in [0, 1], smooth."""
    y, x = np.mgrid[: IMAGE_HW[0], : IMAGE_HW[1]]
    waves = [np.sin(x / 9 + y / 21 + 1), np.cos(x / 15 - y / 8), np.sin(x * y / 900)]
    return (0.5 + 0.45 * np.stack(waves, -1)).astype(np.float32)


def landmarks() -> np.ndarray:
    """[cases, 5, 2] in pixel-index coordinates: scaled, turned (one upside down), moved partly out of the image."""
    rng = np.random.RandomState(0)
    found = []
    for size, degrees, centre in ((60, 0, (65, 45)), (80, 25, (50, 40)), (30, -70, (90, 60)), (50, 180, (20, 70))):
        angle = np.deg2rad(degrees)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        found.append((TEMPLATE - 0.5 + 0.02 * rng.standard_normal((5, 2))) @ turn.T * size + centre)
    return np.stack(found)


def crops(root: Path) -> tuple[np.ndarray, np.ndarray]:
    """Their matrices [cases, 2, 3] and aligned images [cases, 112, 112, 3]."""
    spec = importlib.util.spec_from_file_location("insightface_face_align", root / SOURCE)
    module = importlib.util.module_from_spec(spec)
    with mock.patch.object(sys, "dont_write_bytecode", True):  # the checkout is not ours to write to
        spec.loader.exec_module(module)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer scikit-images want another spelling
        made = [module.norm_crop2(image(), points) for points in landmarks()]
    images, matrices = zip(*made, strict=True)
    return np.stack(matrices), np.stack(images)


if __name__ == "__main__":
    matrices, images = crops(Path(os.environ["INSIGHTFACE_ROOT"]))
    np.savez_compressed(STORED, matrices=matrices, images=images[:, ::STRIDE, ::STRIDE])
    print(f"{STORED}: {STORED.stat().st_size} bytes")
