"""Readers of digits: files made here come back as they were, and bad ones are refused by name."""

import gzip
import struct

import numpy as np
import pytest

from common.affnist.digits import SIDE, Digits, read_idx, read_mnist, sklearn_digits

STEMS = {
    "train_images": "train-images",
    "train_labels": "train-labels",
    "test_images": "t10k-images",
    "test_labels": "t10k-labels",
}


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {
        "train_images": rng.integers(1, 256, (7, SIDE, SIDE), dtype=np.uint8),
        "train_labels": rng.integers(0, 10, 7).astype(np.uint8),
        "test_images": rng.integers(1, 256, (3, SIDE, SIDE), dtype=np.uint8),
        "test_labels": rng.integers(0, 10, 3).astype(np.uint8),
    }


def idx_bytes(array):
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_idx(folder, arrays, mark="-", gzipped=False):
    for key, array in arrays.items():
        name = f"{STEMS[key]}{mark}idx{array.ndim}-ubyte"
        if gzipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx_bytes(array)))
        else:
            (folder / name).write_bytes(idx_bytes(array))


def write_npz(path, arrays):
    keys = {"train_images": "x_train", "train_labels": "y_train", "test_images": "x_test", "test_labels": "y_test"}
    np.savez_compressed(path, **{keys[key]: array for key, array in arrays.items()})


def assert_same(digits, arrays):
    for key, array in arrays.items():
        np.testing.assert_array_equal(getattr(digits, key), array)


def test_reads_npz(tmp_path, arrays):
    write_npz(tmp_path / "mnist.npz", arrays)
    digits = read_mnist(tmp_path / "mnist.npz")
    assert_same(digits, arrays)
    assert digits.train_labels.dtype == np.int64


@pytest.mark.parametrize("mark", ["-", "."])
@pytest.mark.parametrize("gzipped", [False, True])
def test_reads_idx_folder_and_any_file_of_it(tmp_path, arrays, mark, gzipped):
    write_idx(tmp_path, arrays, mark, gzipped)
    assert_same(read_mnist(tmp_path), arrays)
    for path in sorted(tmp_path.iterdir()):
        assert_same(read_mnist(path), arrays)


def test_same_digits_have_the_same_fingerprint(tmp_path, arrays):
    write_npz(tmp_path / "mnist.npz", arrays)
    write_idx(tmp_path, arrays)
    prints = {read_mnist(tmp_path / "mnist.npz").fingerprint(), read_mnist(tmp_path).fingerprint()}
    assert len(prints) == 1
    arrays["test_images"][0, 3, 4] ^= 1
    assert Digits(name="other", **arrays).fingerprint() not in prints


def test_missing_file_and_sibling(tmp_path, arrays):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.npz: no such file"):
        read_mnist(tmp_path / "nowhere.npz")
    write_idx(tmp_path, arrays)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match="no t10k-labels-idx1-ubyte"):
        read_mnist(tmp_path)


def test_other_file_is_no_mnist(tmp_path):
    (tmp_path / "digits.txt").write_text("0123456789")
    with pytest.raises(ValueError, match=r"digits\.txt: expected an \.npz file"):
        read_mnist(tmp_path / "digits.txt")


def test_npz_without_an_array(tmp_path, arrays):
    np.savez(tmp_path / "mnist.npz", x_train=arrays["train_images"])
    with pytest.raises(ValueError, match=r"mnist\.npz: expected the arrays x_train, y_train.*found x_train$"):
        read_mnist(tmp_path / "mnist.npz")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more", b"not an archive", b"\x80\x04pickle"])
def test_damaged_npz(tmp_path, content):
    (tmp_path / "mnist.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"mnist\.npz: expected an \.npz file of plain arrays"):
        read_mnist(tmp_path / "mnist.npz")


def test_npz_cut_short(tmp_path, arrays):
    path = tmp_path / "mnist.npz"
    write_npz(path, arrays)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(ValueError, match=r"mnist\.npz: expected an \.npz file of plain arrays"):
        read_mnist(path)


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_pickled_objects_are_refused(tmp_path, arrays):
    trap = np.empty(7, dtype=object)
    trap[:] = [Trap(str(tmp_path / "sprung"))] * 7
    np.savez(
        tmp_path / "mnist.npz",
        x_train=arrays["train_images"],
        y_train=trap,
        x_test=arrays["test_images"],
        y_test=arrays["test_labels"],
    )
    with pytest.raises(ValueError, match=r"mnist\.npz: expected an \.npz file of plain arrays"):
        read_mnist(tmp_path / "mnist.npz")
    assert not (tmp_path / "sprung").exists()


def test_bare_array_named_npz(tmp_path, arrays):
    with (tmp_path / "mnist.npz").open("wb") as file:
        np.save(file, arrays["train_images"])
    with pytest.raises(ValueError, match=r"mnist\.npz: expected an \.npz file.*one bare array"):
        read_mnist(tmp_path / "mnist.npz")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "found magic nothing"),
        (b"\x89PNG", "expected an idx file of unsigned bytes, found magic 89504e47"),
        (struct.pack(">BBBBI", 0, 0, 0x0D, 1, 1) + b"\0\0\0\0", "unsigned bytes"),
        (struct.pack(">BBBBII", 0, 0, 8, 2, 1, 1) + b"\0", "expected an idx file of 1 axes, found 02"),
        (struct.pack(">BBBBI", 0, 0, 8, 1, 5) + b"1234", r"the header says \[5\], found 4 bytes"),
        (struct.pack(">BBBBI", 0, 0, 8, 1, 5) + b"123456", r"the header says \[5\], found 6 bytes"),
        (b"\0\0\x08\x01\0\0\0", "cut short, the header has no more than 7 bytes"),
    ],
)
def test_bad_idx(tmp_path, content, message):
    path = tmp_path / "train-labels-idx1-ubyte"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_idx(path, axes=1)
    assert str(path) in str(caught.value)


def test_bad_gzip(tmp_path):
    path = tmp_path / "train-labels-idx1-ubyte.gz"
    for content in (b"no gzip", gzip.compress(idx_bytes(np.zeros(9, np.uint8)))[:-9]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"ubyte\.gz: cannot be read"):
            read_idx(path, axes=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_images": np.ones((7, 27, SIDE), np.uint8)}, r"train images must be uint8 .* got uint8 \[7, 27, 28\]"),
        ({"test_images": np.ones((3, SIDE, SIDE), np.float32)}, "test images must be uint8 .* got float32"),
        ({"test_images": np.ones((0, SIDE, SIDE), np.uint8), "test_labels": np.ones(0, int)}, "test images must be"),
        ({"train_labels": np.ones(6, int)}, r"train labels must be 7 integers, got int64 \[6\]"),
        ({"train_labels": np.ones(7, float)}, "train labels must be 7 integers, got float64"),
        ({"test_labels": np.array([0, 10, 1])}, "test labels must be 0 to 9, got 0 to 10"),
        ({"test_images": np.zeros((3, SIDE, SIDE), np.uint8)}, "test image 0 is blank"),
    ],
)
def test_digits_that_are_none(arrays, change, message):
    with pytest.raises(ValueError, match=f"mine: {message}"):
        Digits(name="mine", **{**arrays, **change})


def test_sklearn_digits_are_split_once_and_for_all():
    digits = sklearn_digits()
    assert len(digits.train_labels) + len(digits.test_labels) == 1797
    assert set(digits.test_labels) == set(digits.train_labels) == set(range(10))
    assert digits.fingerprint() == sklearn_digits().fingerprint()
    for images in (digits.train_images, digits.test_images):
        margin = images.copy()
        margin[:, 4:24, 4:24] = 0  # MNIST's box of 20 x 20
        assert not margin.any()
        assert images.max(axis=(1, 2)).min() > 200
