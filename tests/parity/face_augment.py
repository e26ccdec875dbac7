"""The KP-RPE authors' augmentation matrices (CVLface), computed by their file as it is, from a checkout.

Run as a script, with CVLFACE_ROOT set, it writes what tests compare with where no checkout is at hand:
`python tests/parity/face_augment.py`.
"""

import importlib.util
import os
import sys
from pathlib import Path
from unittest import mock

import numpy as np

STORED = Path(__file__).with_name("face_augment.npz")
SOURCE = "cvlface/research/recognition/code/run_v1/data_augs/aug_utils/transform_cv2.py"
SIZES = ((112, 112), (96, 128))  # even, in and out alike: elsewhere theirs rounds centres, or crops instead of resizing
NAMES = ("px", "py", "signx", "signy", "scale", "angle", "hflip", "extra_offset_val")
CASES = 24


def draws() -> np.ndarray:
    """[cases, 8] in the order of NAMES, from the ranges of their gridsample_v1.yaml; one case leaves all as it is."""
    rng = np.random.RandomState(0)
    columns = [
        rng.uniform(0, 1, CASES),
        rng.uniform(0, 1, CASES),
        rng.choice([-1, 1], CASES),
        rng.choice([-1, 1], CASES),
        rng.uniform(0.8, 1.2, CASES),
        rng.uniform(-20, 20, CASES) * (rng.uniform(0, 1, CASES) < 0.7),
        rng.choice([0, 1], CASES),
        rng.uniform(0, 0.1, CASES),
    ]
    found = np.stack(columns, axis=1)
    found[0] = (0, 0, 1, 1, 1, 0, 0, 0)
    return found


def matrices(root: Path) -> np.ndarray:
    """[sizes, cases, 3, 3]: their matrices for all draws."""
    spec = importlib.util.spec_from_file_location("authors_transform_cv2", root / SOURCE)
    module = importlib.util.module_from_spec(spec)
    with mock.patch.object(sys, "dont_write_bytecode", True):  # the checkout is not ours to write to
        spec.loader.exec_module(module)
    rows = [dict(zip(NAMES, row, strict=True)) for row in draws().tolist()]
    return np.array(
        [
            [module.generate_transform_cv2(np.zeros((height, width, 3)), width, height, **row) for row in rows]
            for height, width in SIZES
        ]
    )


if __name__ == "__main__":
    np.savez_compressed(STORED, matrices=matrices(Path(os.environ["CVLFACE_ROOT"])))
    print(f"{STORED}: {STORED.stat().st_size} bytes")
