"""Identification sets: a folder with `gallery.csv` and `probe.csv`, rows `image,identity`.

Images are paths below the folder; their landmarks are in its `landmarks.csv`.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from face.data.landmarks import Landmarks
from face.evaluation.identification import check_closed_set
from face.evaluation.images import FolderImages, image_landmarks
from face.evaluation.tables import read_table

__all__ = ["GallerySet", "open_gallery"]


@dataclass(frozen=True, kw_only=True, eq=False)
class GallerySet:
    """Images with known persons, and those that are looked for among them."""

    name: str
    """What results call the set."""

    images: FolderImages
    """m of the gallery, then n probes; decoded when they are asked for."""

    gallery_labels: np.ndarray
    """[m] text, identities."""

    probe_labels: np.ndarray
    """[n] text; each is an identity of the gallery."""

    landmarks: Landmarks | None
    """Of the images, or None if there is no table of them."""


def open_gallery(
    path: str | Path, *, name: str | None = None, landmarks: str | Path | None = None, with_landmarks: bool = True
) -> GallerySet:
    """Read what a set consists of. Images are not decoded, but all of them must be there.

    Args:
        path: the folder.
        name: of the set; None takes the one of the folder.
        landmarks: a table of landmarks; None takes the folder's, if it is there.
        with_landmarks: False leaves landmarks alone, for networks that need none.

    Raises:
        FileNotFoundError: the folder, one of its lists, or a table of landmarks that was named is not there.
        ValueError: content that is not as shown above, an image that comes twice, images that are not there, or probes
            of persons that the gallery lacks. The file is named.
    """
    path = Path(path)
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such folder")
    seen: dict[str, str] = {}
    labels: dict[str, list[str]] = {}
    for list_name in ("gallery.csv", "probe.csv"):
        labels[list_name] = []
        for line, (image, identity) in read_table(path / list_name, ("image", "identity")):
            where = f"{path / list_name}, line {line}"
            if image in seen:
                raise ValueError(f"{where}: {image} is in {seen[image]} already")
            seen[image] = where
            labels[list_name].append(identity)
    gallery_labels, probe_labels = (np.array(found, dtype=np.str_) for found in labels.values())
    images = FolderImages(path, list(seen), path)
    try:
        check_closed_set(probe_labels, gallery_labels, lambda probe: images.name_of(len(gallery_labels) + probe))
    except ValueError as error:
        raise ValueError(f"{path / 'probe.csv'}: {error}") from None
    table = Path(landmarks) if landmarks is not None else None
    return GallerySet(
        name=name or path.name,
        images=images,
        gallery_labels=gallery_labels,
        probe_labels=probe_labels,
        landmarks=image_landmarks(table, path / "landmarks.csv", images) if with_landmarks else None,
    )
