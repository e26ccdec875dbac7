"""Synthetic benchmarks of single images: pairs as `.bin` files, and TinyFace.

lfw.bin, lfw.bin.csv, and so on                        pairs of aligned images; landmarks by position
tinyface/Testing_Set/{Gallery_Match,Probe}/<identity>_<n>.jpg
tinyface/Testing_Set/Gallery_Distractor/distractor_<n>.jpg
tinyface/Testing_Set/{gallery_match,probe}_img_ID_pairs.mat, landmarks.csv
"""

import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.runtime.files import write_bytes
from face.data.landmarks import write_landmarks
from face.synthesize.crops import Crop, aligned_crop
from face.synthesize.images import Purpose, Split, generator, render_scene
from face.synthesize.loose_crops import draw_loose_crops, encode_jpeg
from face.synthesize.protocols import draw_pairs
from face.synthesize.settings import FOLDS, SynthesisSettings

__all__ = ["BINS", "draw_bin_images", "draw_tinyface", "finish_bin", "finish_tinyface", "tinyface_identities"]

BINS = {"lfw": 0.4, "cfp_fp": 1.0, "agedb_30": 0.6, "calfw": 0.6, "cplfw": 1.0}
"""Names of the files of pairs, and how far heads are turned in each: to this share of what the settings allow."""

_BIN_IMAGES = 4  # of an identity
_MOST_PAIRS = 6000
_TINY = (16, 28)  # heights in pixels
_TINY_IMAGES = 2  # of an identity, in the gallery and again as probes
_MAT_HEADER = b"MATLAB 5.0 MAT-file, synthetic"

Row = tuple[str, np.ndarray, float]
"""Name, landmarks [5, 2] as fractions, score."""


def draw_bin_images(settings: SynthesisSettings, name: str, first: int, identity: int) -> list[tuple[bytes, Crop]]:
    """Encoded images of one identity.

    Args:
        settings: of the set.
        name: one of `BINS`.
        first: number of the first scene.
        identity: whose face.
    """
    turned = dataclasses.replace(settings, max_yaw=settings.max_yaw * BINS[name])
    crops = [
        aligned_crop(render_scene(turned, Split.BENCHMARK, identity, first + image), settings.crop_size)
        for image in range(_BIN_IMAGES)
    ]
    return [(encode_jpeg(crop.image), crop) for crop in crops]


def finish_bin(
    settings: SynthesisSettings, path: Path, number: int, images: Sequence[Sequence[tuple[bytes, Crop]]]
) -> None:
    """Write a file of pairs and its landmarks.

    Args:
        settings: of the set.
        path: of the file.
        number: of the benchmark, which pairs are drawn by.
        images: by identity.
    """
    from face.evaluation.bins import write_bin  # it brings the models along, which no worker process needs

    same = len(images) * _BIN_IMAGES * (_BIN_IMAGES - 1) // 2
    count = min(2 * FOLDS * (same // FOLDS), _MOST_PAIRS)
    rng = generator(settings.seed, Purpose.PAIRS, Split.BENCHMARK, number)
    pairs = draw_pairs(rng, len(images), _BIN_IMAGES, count)
    ends = [images[identity][image] for pair in pairs for identity, image in (pair.first, pair.second)]
    write_bin(path, [encoded for encoded, _ in ends], [pair.same for pair in pairs])
    places = [str(place) for place in range(len(ends))]
    write_landmarks(path.with_name(f"{path.name}.csv"), places, np.stack([crop.landmarks for _, crop in ends]))


def tinyface_identities(settings: SynthesisSettings) -> int:
    """With as many distractors as there are identities."""
    return 2 * settings.benchmark_identities


def draw_tinyface(settings: SynthesisSettings, root: Path, first: int, identity: int) -> list[Row]:
    """Write the images of one identity.

    Args:
        settings: of the set.
        root: `Testing_Set`.
        first: number of the first scene.
        identity: whose face; those after the benchmark's are distractors.
    """
    rows = []
    distractor = identity >= settings.benchmark_identities
    for image in range(_TINY_IMAGES if distractor else 2 * _TINY_IMAGES):
        crop = draw_loose_crops(settings, identity, first + image, 1, _TINY)[0]
        if distractor:
            place = (identity - settings.benchmark_identities) * _TINY_IMAGES + image
            name = f"Gallery_Distractor/distractor_{place + 1}.jpg"
        else:
            name = f"{'Gallery_Match' if image < _TINY_IMAGES else 'Probe'}/{identity + 1}_{image + 1}.jpg"
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_bytes(root / name, encode_jpeg(crop.image))
        rows.append((name, crop.landmarks, crop.score))
    return rows


def finish_tinyface(root: Path, rows: Sequence[Row]) -> None:
    """Write the lists and the landmarks."""
    for part, list_name, prefix in (("Gallery_Match", "gallery_match", "gallery"), ("Probe", "probe", "probe")):
        names = [name.partition("/")[2] for name, *_ in rows if name.startswith(part + "/")]
        write_bytes(root / f"{list_name}_img_ID_pairs.mat", _mat(prefix, names))
    points, scores = np.stack([points for _, points, _ in rows]), np.array([score for *_, score in rows])
    write_landmarks(root / "landmarks.csv", [name for name, *_ in rows], points, scores)


def _mat(prefix: str, names: Sequence[str]) -> bytes:
    """A list in a MATLAB 5 file: a cell array [n, 1] of names, and a matrix [n, 1] of identities."""
    from scipy.io import savemat  # it comes with scikit-learn

    cells = np.empty((len(names), 1), object)
    cells[:, 0] = names
    ids = np.array([[int(name.partition("_")[0])] for name in names], np.float64)
    file = io.BytesIO()
    savemat(file, {f"{prefix}_set": cells, f"{prefix}_ids": ids})
    # SciPy puts the time into the text that such a file begins with.
    return _MAT_HEADER.ljust(116) + file.getvalue()[116:]
