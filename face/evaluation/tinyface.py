"""TinyFace: faces of about twenty pixels, looked for among 4,443 images of their people and 153,428 of others.

    tinyface/Testing_Set/Gallery_Match/*.jpg
    tinyface/Testing_Set/Gallery_Distractor/*.jpg
    tinyface/Testing_Set/Probe/*.jpg
    tinyface/Testing_Set/gallery_match_img_ID_pairs.mat     gallery_set (names of files), gallery_ids
    tinyface/Testing_Set/probe_img_ID_pairs.mat             probe_set, probe_ids
    tinyface/Testing_Set/landmarks.csv                      ours, if there is one: images as Probe/<name>.jpg

Without such a list (MATLAB 5), the identity is the number before the first underscore of a file's name, as
mk-minchul/CVLface@d3d09c9 takes it (evaluations/tinyface/evaluate.py). Its own data set of Arrow files is not read.

Shape letters: m images of the gallery, n probes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from face.data.folders import IMAGE_SUFFIXES, natural_order
from face.data.landmarks import Landmarks
from face.evaluation.images import FolderImages, image_landmarks
from face.evaluation.listed_images import ListedImages, files_in
from face.evaluation.release_folders import check_folder, check_parts

__all__ = ["DISTRACTOR", "TinyFaceSet", "open_tinyface"]

DISTRACTOR = -1
"""Label of gallery images that are of nobody who is looked for."""

_LAYOUT = "TinyFace as it is released"
_MATCH, _DISTRACTORS, _PROBE = "Gallery_Match", "Gallery_Distractor", "Probe"
_LISTS = {_MATCH: ("gallery_match_img_ID_pairs.mat", "gallery"), _PROBE: ("probe_img_ID_pairs.mat", "probe")}


@dataclass(frozen=True, kw_only=True, eq=False)
class TinyFaceSet:
    """Faces of few pixels that are looked for in a large gallery."""

    images: FolderImages
    """m of the gallery, distractors last, then n probes; decoded when they are asked for."""

    gallery_labels: np.ndarray
    """[m] int64, identities; `DISTRACTOR` for distractors."""

    probe_labels: np.ndarray
    """[n] int64; the gallery has one image or more of each of these identities."""

    landmarks: Landmarks | None
    """Of the images, or None if there is no table of them."""


def open_tinyface(
    folder: str | Path, *, landmarks: str | Path | None = None, with_landmarks: bool = True
) -> TinyFaceSet:
    """Read what the set consists of. Images are not decoded, but all of them must be there.

    Args:
        folder: with `Testing_Set`, or that itself.
        landmarks: a table of landmarks; None takes the folder's, if it is there.
        with_landmarks: False leaves landmarks alone, for networks that need none.

    Raises:
        FileNotFoundError: no folder, folders that are not in it (all of them), or no such table of landmarks.
        ValueError: a folder without images, a list that is damaged, that names an image twice or not on the disk or
            lacks one, a name without an identity, or probes of identities that the gallery lacks. The file is named.
    """
    folder = Path(folder)
    check_folder(folder, _LAYOUT)
    root = folder / "Testing_Set" if (folder / "Testing_Set").is_dir() else folder
    check_parts(root, [f"{part}/" for part in (_MATCH, _DISTRACTORS, _PROBE)], _LAYOUT)
    match_names, match_labels = _labelled(root, _MATCH)
    probe_names, probe_labels = _labelled(root, _PROBE)
    distractors = _images_in(root / _DISTRACTORS)
    absent = np.flatnonzero(~np.isin(probe_labels, match_labels))
    if len(absent):
        shown = ", ".join(probe_names[index] for index in absent[:5]) + (", ..." if len(absent) > 5 else "")
        raise ValueError(
            f"{root / _PROBE}: {len(absent)} of {len(probe_names)} probes are of identities without an image in "
            f"{_MATCH}, first: {shown}"
        )
    names = [f"{_MATCH}/{name}" for name in match_names]
    names += [f"{_DISTRACTORS}/{name}" for name in distractors]
    names += [f"{_PROBE}/{name}" for name in probe_names]
    images = ListedImages(root, names, root)
    table = Path(landmarks) if landmarks is not None else None
    return TinyFaceSet(
        images=images,
        gallery_labels=np.concatenate([match_labels, np.full(len(distractors), DISTRACTOR, np.int64)]),
        probe_labels=probe_labels,
        landmarks=image_landmarks(table, root / "landmarks.csv", images) if with_landmarks else None,
    )


def _images_in(folder: Path) -> list[str]:
    found = [name for name in files_in(folder) if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")]
    if not found:
        raise ValueError(f"{folder}: no images ({', '.join(IMAGE_SUFFIXES)})")
    return natural_order(found)


def _labelled(root: Path, part: str) -> tuple[list[str], np.ndarray]:
    """Images of a folder, and their identities by its list or by their names."""
    names = _images_in(root / part)
    list_name, prefix = _LISTS[part]
    path = root / list_name
    if path.is_file():
        listed, labels = _read_list(path, prefix)
        _check_listed(path, listed, names, root / part)
        return listed, labels
    numbers = [name.partition("_")[0] for name in names]
    bad = [name for name, number in zip(names, numbers, strict=True) if not _is_identity(name, number)]
    if bad:
        shown = ", ".join(bad[:5]) + (", ..." if len(bad) > 5 else "")
        raise ValueError(
            f"{root / part}: without {list_name} names must be <identity>_<image>, those of {len(bad)} of {len(names)} "
            f"images are not: {shown}"
        )
    return names, np.array([int(number) for number in numbers], np.int64)


def _is_identity(name: str, number: str) -> bool:
    return "_" in name and number.isascii() and number.isdecimal() and len(number) < 19


def _check_listed(path: Path, listed: Sequence[str], names: Sequence[str], folder: Path) -> None:
    twice = sorted({name for name in listed if listed.count(name) > 1}) if len(set(listed)) < len(listed) else []
    for kind, found in (
        ("come twice", twice),
        (f"are not in {folder}", sorted(set(listed) - set(names))),
        (f"of {folder} are not in it", sorted(set(names) - set(listed))),
    ):
        if found:
            shown = ", ".join(found[:5]) + (", ..." if len(found) > 5 else "")
            raise ValueError(f"{path}: {len(found)} image(s) {kind}, first: {shown}")


def _read_list(path: Path, prefix: str) -> tuple[list[str], np.ndarray]:
    """Names and identities from a MATLAB 5 file, which is read without running anything."""
    from scipy.io import loadmat  # it comes with scikit-learn

    wanted = f"{prefix}_set", f"{prefix}_ids"
    try:
        content = loadmat(str(path), variable_names=wanted)
    except Exception as error:  # damaged files can fail in any way there is
        raise ValueError(f"{path}: not a MATLAB 5 file ({type(error).__name__}: {error})") from error
    missing = [name for name in wanted if name not in content]
    if missing:
        raise ValueError(f"{path}: expected {' and '.join(wanted)} in it, not there: {', '.join(missing)}")
    cells, ids = np.ravel(content[wanted[0]]), np.ravel(content[wanted[1]])
    names = [_text(cell) for cell in cells]
    if not names or None in names or cells.dtype != object:
        raise ValueError(f"{path}: {wanted[0]} must be a cell array of names of files")
    whole = ids.dtype.kind in "iuf" and bool((ids == np.trunc(ids)).all()) and bool((ids >= 0).all())
    if len(ids) != len(names) or not whole:
        raise ValueError(f"{path}: {wanted[1]} must be {len(names)} whole numbers >= 0, as many as names")
    return [str(name) for name in names], ids.astype(np.int64)


def _text(cell: Any) -> str | None:
    """What a cell of one text holds."""
    entries = np.ravel(cell)
    if len(entries) == 1 and entries.dtype == object:
        return _text(entries[0])
    return str(entries[0]).strip() if len(entries) == 1 and entries.dtype.kind == "U" else None
