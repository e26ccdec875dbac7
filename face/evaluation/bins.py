"""The `.bin` files of verification sets: encoded images two by two, and whether the two are of the same person.

Source: deepinsight/insightface@7fadd42, recognition/arcface_torch/eval/verification.py; a file is the pickle of
(images, same). lfw.bin, cfp_fp.bin, agedb_30.bin and their like come so, most of them written by Python 2. Files of
recognition/arcface_mxnet/common/build_eval_pack.py have the arrays that cv2.imencode gives in place of bytes.
Deliberate difference: read with stand-ins (`common.runtime.pickles`) instead of `pickle.load`, which runs whatever a
stranger put in a file. Lists, tuples, bytes, booleans and NumPy's arrays and scalars of numbers are let in, by any
protocol of Python 2 and 3; any other name is refused.

Shape letters: n pairs, 2 n images.
"""

import io
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.runtime.files import whole_file
from common.runtime.pickles import ARRAY_NAMES, PickledArray, PickledDtype, RefusedError, StandIn, StandInUnpickler

__all__ = ["BinPairs", "read_bin", "write_bin"]


@dataclass(frozen=True, kw_only=True, eq=False)
class BinPairs:
    """What a `.bin` file holds."""

    images: list[bytes]
    """2 n encoded images (JPEG or PNG); pair i is of images 2 i and 2 i + 1."""

    same: np.ndarray
    """[n] bool: whether a pair is of one person."""


def read_bin(path: str | Path) -> BinPairs:
    """Read a `.bin` file. Images are not decoded.

    Raises:
        ValueError: a name that such a file has no use for (it is given), content that is not (images, same), an image
            that is not bytes or empty, something else than booleans, 0 and 1 in `same`, other than 2 n images for n
            pairs, or an empty or damaged file. The message begins with the path.
        FileNotFoundError: there is no such file.
    """
    data = Path(path).read_bytes()
    try:
        content = StandInUnpickler(io.BytesIO(data), _NAMES, "a file of image pairs", encoding="bytes").load()
        return _as_pairs(content)
    except RefusedError as error:
        raise ValueError(f"{path}: {error}") from None
    except Exception as error:  # damaged byte code can fail in any way there is
        if not data:
            raise ValueError(f"{path}: empty file, expected a pickle of (images, same)") from None
        raise ValueError(f"{path}: not a whole pickle of (images, same) ({type(error).__name__}: {error})") from error


def write_bin(path: str | Path, images: Sequence[bytes], same: Sequence[bool] | np.ndarray) -> None:
    """Write a `.bin` file whole or not at all, for `read_bin` or insightface's own reader.

    Args:
        path: of the file.
        images: 2 n encoded images, pair by pair.
        same: [n] whether a pair is of one person.

    Raises:
        ValueError: lengths that do not fit, an image that is not bytes or empty, or no booleans.
        OSError: the folder is missing or cannot be written.
    """
    try:
        pairs = _as_pairs((list(images), np.asarray(same)))
    except RefusedError as error:
        raise ValueError(f"{path}: {error}") from None
    with whole_file(path) as partial, partial.open("wb") as file:
        pickle.dump((pairs.images, pairs.same.tolist()), file, protocol=4)


class _Bytearray(StandIn):
    """`bytearray()`, `bytearray(content)` or `bytearray(text, "latin-1")`, which depends on the protocol."""

    def __new__(cls, content: bytes | str = b"", encoding: str | bytes = "latin-1") -> bytes:  # type: ignore[misc]
        if encoding not in ("latin-1", b"latin-1"):
            raise RefusedError(f"encodes as {encoding!r}, not as latin-1")
        if not isinstance(content, bytes | str):
            raise RefusedError(f"calls bytearray with a {type(content).__name__}, expected its content")
        return content.encode("latin-1") if isinstance(content, str) else content


class _Scalar(StandIn):
    """`scalar(dtype, content)`: a boolean or number of NumPy's."""

    def __new__(cls, dtype: Any, content: bytes) -> np.generic:  # type: ignore[misc]
        if not isinstance(dtype, PickledDtype) or len(content) != dtype.dtype.itemsize:
            raise RefusedError("holds a NumPy scalar that is no boolean or number")
        return np.frombuffer(content, dtype.dtype)[0]


_NAMES: dict[tuple[str, str], type] = {
    **ARRAY_NAMES,
    ("builtins", "bytearray"): _Bytearray,
    ("__builtin__", "bytearray"): _Bytearray,
    ("numpy.core.multiarray", "scalar"): _Scalar,
    ("numpy._core.multiarray", "scalar"): _Scalar,
}


def _as_pairs(content: Any) -> BinPairs:
    if not isinstance(content, list | tuple) or len(content) != 2:
        raise RefusedError(f"expected (images, same), found {_found(content)}")
    images, same = content
    if not isinstance(images, list | tuple):
        raise RefusedError(f"expected a list of encoded images first, found {_found(images)}")
    encoded = [_as_image(image, number) for number, image in enumerate(images)]
    answers = _as_answers(same)
    if not len(answers) or len(encoded) != 2 * len(answers):
        raise RefusedError(f"expected two images for each pair, found {len(encoded)} images for {len(answers)} pairs")
    return BinPairs(images=encoded, same=answers)


def _as_image(image: Any, number: int) -> bytes:
    if isinstance(image, PickledArray):
        image = image.build()
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.shape in ((image.size,), (image.size, 1)):
        image = image.tobytes()  # what cv2.imencode gives; older ones give a column
    if not isinstance(image, bytes | bytearray) or not image:
        raise RefusedError(f"image {number} must be the bytes of an encoded image, found {_found(image)}")
    return bytes(image)


def _as_answers(same: Any) -> np.ndarray:
    if isinstance(same, PickledArray):
        same = same.build()
    if isinstance(same, np.ndarray):
        if same.ndim != 1:
            raise RefusedError(f"expected one answer for each pair, found {_found(same)}")
        same = list(same)
    if not isinstance(same, list | tuple):
        raise RefusedError(f"expected a list of booleans second, found {_found(same)}")
    for number, answer in enumerate(same):
        if not isinstance(answer, bool | int | np.bool_ | np.integer) or answer not in (0, 1):
            raise RefusedError(f"same[{number}] must be a boolean, found {_found(answer)}")
    return np.array([bool(answer) for answer in same], dtype=bool)


def _found(value: Any) -> str:
    if isinstance(value, type):
        return "a bare name"
    if isinstance(value, PickledArray):
        return "an array"
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} {list(value.shape)}"
    if isinstance(value, list | tuple | bytes | bytearray | str | dict):
        return f"a {type(value).__name__} of length {len(value)}"
    return f"{value!r}" if isinstance(value, int | float | np.generic) else f"a {type(value).__name__}"
