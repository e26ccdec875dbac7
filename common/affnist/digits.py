"""Handwritten digits: those that scikit-learn ships, or MNIST from a file of the user's.

Sources: MNIST's idx format (LeCun, Cortes, Burges, http://yann.lecun.com/exdb/mnist), Keras' `mnist.npz`, and
`sklearn.datasets.load_digits` (1,797 digits of 8 x 8, from the UCI repository).
Files are read as plain numbers: nothing in them is unpickled.
Shape letters: N digits.
"""

import gzip
import hashlib
import math
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

__all__ = ["SIDE", "Digits", "read_idx", "read_mnist", "sklearn_digits"]

SIDE = 28
"""Height and width of a digit's image, in pixels."""

_INNER_SIDE = 20  # MNIST fits a digit into this box before it centres it in 28 x 28
_SPLIT_SEED = 0
_TEST_SHARE = 0.3
_NPZ_KEYS = ("x_train", "y_train", "x_test", "y_test")
_IDX_STEMS = ("train-images", "train-labels", "t10k-images", "t10k-labels")
_IDX_UINT8 = 0x08


@dataclass(frozen=True, kw_only=True)
class Digits:
    """White digits on black, split into training and test.

    Raises:
        ValueError: images that are not uint8 [N, 28, 28], labels that are not N integers from 0 to 9, an empty part,
            or an image without a digit. The message begins with `name`.
    """

    name: str
    """What tables and error messages call them."""

    train_images: np.ndarray
    """[N, 28, 28] uint8."""

    train_labels: np.ndarray
    """[N] int64, 0 to 9."""

    test_images: np.ndarray
    """As `train_images`."""

    test_labels: np.ndarray
    """As `train_labels`."""

    def __post_init__(self) -> None:
        for part in ("train", "test"):
            images, labels = getattr(self, f"{part}_images"), getattr(self, f"{part}_labels")
            if images.dtype != np.uint8 or images.ndim != 3 or images.shape[1:] != (SIDE, SIDE) or not len(images):
                found = f"{images.dtype} {list(images.shape)}"
                raise ValueError(f"{self.name}: {part} images must be uint8 of shape [N, {SIDE}, {SIDE}], got {found}")
            if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
                found = f"{labels.dtype} {list(labels.shape)}"
                raise ValueError(f"{self.name}: {part} labels must be {len(images)} integers, got {found}")
            if labels.min() < 0 or labels.max() > 9:
                raise ValueError(f"{self.name}: {part} labels must be 0 to 9, got {labels.min()} to {labels.max()}")
            blank = ~images.any(axis=(1, 2))
            if blank.any():
                raise ValueError(f"{self.name}: {part} image {int(blank.argmax())} is blank, expected a digit")
            object.__setattr__(self, f"{part}_labels", labels.astype(np.int64))

    def fingerprint(self) -> str:
        """A hash of all images and labels: equal for equal digits, whatever file they came from."""
        digest = hashlib.sha256()
        for array in (self.train_images, self.train_labels, self.test_images, self.test_labels):
            digest.update(array.tobytes())
        return digest.hexdigest()[:16]


def sklearn_digits() -> Digits:
    """The 1,797 digits of scikit-learn, enlarged to 20 x 20 and framed to 28 x 28 as in MNIST; 30 % are for testing.

    The split is the same in every run.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    from sklearn.datasets import load_digits

    stored = load_digits()
    images = np.stack([_frame(image) for image in stored.images])
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(images))
    tests = round(_TEST_SHARE * len(images))
    test, train = order[:tests], order[tests:]
    return Digits(
        name="scikit-learn digits",
        train_images=images[train],
        train_labels=stored.target[train],
        test_images=images[test],
        test_labels=stored.target[test],
    )


def _frame(image: np.ndarray) -> np.ndarray:
    """[8, 8] of 0 to 16 to uint8 [28, 28]."""
    large = cv2.resize(image / 16 * 255, (_INNER_SIDE, _INNER_SIDE), interpolation=cv2.INTER_CUBIC)
    return np.pad(np.rint(large.clip(0, 255)).astype(np.uint8), (SIDE - _INNER_SIDE) // 2)


def read_mnist(path: str | Path) -> Digits:
    """Original MNIST from a file or folder.

    Args:
        path: an `.npz` file with x_train, y_train, x_test and y_test, as Keras has it; a folder with the four idx files
            (`train-images-idx3-ubyte` and so on, a dot instead of the second dash and `.gz` are fine); or one of
            these four, beside which the others lie.

    Raises:
        FileNotFoundError: no such file, or one of the four is missing.
        ValueError: a file that is damaged, cut short or holds something else.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder; expected MNIST as an .npz file or as idx files")
    if path.is_dir():
        return _read_idx_folder(path)
    if any(path.name.startswith(stem) for stem in _IDX_STEMS):
        return _read_idx_folder(path.parent, chosen=path)
    if path.suffix == ".npz":
        return _read_npz(path)
    raise ValueError(f"{path}: expected an .npz file, an idx file such as {_IDX_STEMS[0]}-idx3-ubyte, or their folder")


def _read_npz(path: Path) -> Digits:
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("one bare array")
        with archive:
            missing = [key for key in _NPZ_KEYS if key not in archive]
            if not missing:
                arrays = [archive[key] for key in _NPZ_KEYS]
                found = ""
            else:
                found = ", ".join(archive.files) or "nothing"
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: expected an .npz file of plain arrays, found: {error or 'a cut file'}") from error
    if missing:
        raise ValueError(f"{path}: expected the arrays {', '.join(_NPZ_KEYS)}, found {found}")
    return _digits(path, arrays)


def _digits(path: Path, arrays: list[np.ndarray]) -> Digits:
    train_images, train_labels, test_images, test_labels = arrays
    return Digits(
        name=str(path),
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
    )


def _read_idx_folder(folder: Path, chosen: Path | None = None) -> Digits:
    arrays = []
    for stem in _IDX_STEMS:
        axes = 3 if stem.endswith("images") else 1
        names = [f"{stem}{mark}idx{axes}-ubyte{end}" for mark in "-." for end in ("", ".gz")]
        if chosen is not None and chosen.name.startswith(stem):
            names = [chosen.name]
        found = [folder / name for name in names if (folder / name).is_file()]
        if not found:
            raise FileNotFoundError(f"{folder}: no {names[0]} or {names[1]}" if names[1:] else f"{chosen}: no file")
        arrays.append(read_idx(found[0], axes))
    return _digits(folder, arrays)


def read_idx(path: Path, axes: int) -> np.ndarray:
    """One idx file of unsigned bytes, gzipped where its name ends in .gz.

    Args:
        path: the file.
        axes: how many axes it must have.

    Returns:
        uint8 array in its own memory.

    Raises:
        ValueError: another magic number, another number of axes, or another length than its header says.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            magic = file.read(4)
            if magic[:3] != bytes([0, 0, _IDX_UINT8]):
                raise ValueError(
                    f"{path}: expected an idx file of unsigned bytes, found magic {magic.hex() or 'nothing'}"
                )
            if magic[3:] != bytes([axes]):
                raise ValueError(f"{path}: expected an idx file of {axes} axes, found {magic[3:].hex() or 'none'}")
            header, content = file.read(4 * axes), file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: cannot be read (not gzip, damaged or cut short?): {error}") from error
    if len(header) < 4 * axes:
        raise ValueError(f"{path}: cut short, the header has no more than {4 + len(header)} bytes")
    shape = struct.unpack(f">{axes}I", header)
    if len(content) != math.prod(shape):
        raise ValueError(f"{path}: the header says {list(shape)}, found {len(content)} bytes after it")
    return np.frombuffer(bytearray(content), dtype=np.uint8).reshape(shape)
