"""A folder for each identity into a RecordIO set, and back.

Images are packed as they are, byte by byte, or encoded anew; each is decoded once to see that it can be. Beside the
records there are `property` and CVLface's `train.tsv`, which keeps the names; landmarks go to CVLface's
`ldmk_5points.csv`. What is written takes its name when all of it is there.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np
from torch.utils.data import DataLoader, Dataset

from common.runtime.files import whole_file, whole_folder, write_text
from common.runtime.progress import progress_bar
from common.runtime.workers import loader_processes
from face.data.folders import FolderSource
from face.data.images import ImageError, decode_image
from face.data.landmarks import Landmarks, write_cvlface_landmarks, write_landmarks
from face.data.records import RecordSource, RecordWriter
from face.data.records.format import LABEL_LIMIT
from face.data.records.writer import NAMES_FILE
from face.data.sources import ImageSource

__all__ = ["LANDMARK_FILE", "SKIPPED_FILE", "PackReport", "PackSettings", "pack", "unpack"]

LANDMARK_FILE, SKIPPED_FILE = "ldmk_5points.csv", "skipped.txt"
_SUFFIXES = {b"\xff\xd8": ".jpg", b"\x89P": ".png", b"BM": ".bmp", b"RI": ".webp"}


@dataclass(frozen=True, kw_only=True)
class PackSettings:
    """How a folder is packed."""

    reencode: Literal["jpg", "png"] | None = None
    """Format that images are encoded in anew; None keeps their bytes."""

    quality: int = 95
    """Of JPEG, from 1 to 100; matters only where images are encoded anew."""

    header: bool = True
    """insightface's convention; False writes CVLface's, images alone from key 0 on."""

    skip_broken: bool = False
    """Whether images that do not decode are left out and listed; else the first one stops the run."""

    workers: int = 1
    """Processes that read and decode."""

    def __post_init__(self) -> None:
        if self.reencode not in (None, "jpg", "png"):
            raise ValueError(f"reencode must be jpg or png, got {self.reencode!r}")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"quality must be from 1 to 100, got {self.quality}")
        if self.workers < 1:
            raise ValueError(f"workers must be >= 1, got {self.workers}")


class PackReport(NamedTuple):
    """What was packed."""

    images: int
    identities: int
    skipped: tuple[str, ...]
    """Images that did not decode: what the error said."""
    other_sizes: int
    """Images of another height and width than the first one's, which `property` has."""


def pack(
    source: FolderSource, out: str | Path, settings: PackSettings | None = None, landmarks: Landmarks | None = None
) -> PackReport:
    """Write the images of a folder as a RecordIO set.

    Args:
        source: the images.
        out: folder for the files of the set, made if it is not there.
        settings: see `PackSettings`.
        landmarks: of the images of `source`, all of them found, for `ldmk_5points.csv`.

    Raises:
        ImageError: an image does not decode, unless those are skipped.
        ValueError: landmarks missing, more images than insightface's header can count, none that decodes.
        FileExistsError: `out` has a set already.
        OSError: something cannot be read or written. Of the set there is then nothing.
    """
    settings, out = settings or PackSettings(), Path(out)
    _check_pack(source, out, settings, landmarks)
    first = next((size for size in (_size(source, index) for index in range(len(source))) if size), None)
    if first is None:
        raise ValueError(f"{source.root}: none of its {len(source)} images decodes")
    kept: list[int] = []
    skipped: list[str] = []
    classes: dict[int, int] = {}
    other_sizes = 0
    with ExitStack() as tables, RecordWriter(out, image_hw=first, header=settings.header) as writer:
        for index, item in enumerate(_encoded(source, settings)):
            if item.problem:
                if not settings.skip_broken:
                    raise ImageError(item.problem)
                skipped.append(item.problem)
                continue
            label = classes.setdefault(int(source.labels[index]), len(classes))  # identities may fall away
            writer.write(item.encoded, label, source.key_of(index))
            kept.append(index)
            other_sizes += item.size_hw != first
        if landmarks is not None:
            table = tables.enter_context(whole_file(out / LANDMARK_FILE))
            chosen = landmarks.take(np.array(kept))
            write_cvlface_landmarks(table, chosen.points, chosen.scores)
        if skipped:
            table = tables.enter_context(whole_file(out / SKIPPED_FILE))
            write_text(table, "".join(f"{line}\n" for line in skipped))
    return PackReport(len(kept), len(classes), tuple(skipped), other_sizes)


def _check_pack(source: FolderSource, out: Path, settings: PackSettings, landmarks: Landmarks | None) -> None:
    _check_apart(out, source.root)
    for name in (LANDMARK_FILE, SKIPPED_FILE):  # of another set, which they would be taken for this one's
        if (out / name).exists():
            raise FileExistsError(f"{out / name}: exists already; remove it or write to another folder")
    if settings.header and len(source) + 1 >= LABEL_LIMIT:
        raise ValueError(
            f"{source.root}: {len(source)} images are more than insightface's header counts exactly; use --no-header"
        )
    if landmarks is not None:
        if len(landmarks) != len(source):
            raise ValueError(f"landmarks of {len(landmarks)} images, {source.root} has {len(source)}")
        if not landmarks.found.all():
            missing = source.key_of(int((~landmarks.found).argmax()))
            raise ValueError(
                f"{int((~landmarks.found).sum())} image(s) of {source.root} have no landmarks, such as {missing}; "
                f"{LANDMARK_FILE} needs those of all"
            )


def _check_apart(out: Path, folder: Path) -> None:
    inner, outer = out.resolve(), folder.resolve()
    if inner == outer or outer in inner.parents:
        raise ValueError(f"{out}: lies in {folder}; give a folder of its own")


def _size(source: ImageSource, index: int) -> tuple[int, int] | None:
    try:
        return source.read(index).shape[:2]
    except ImageError:
        return None


class _Item(NamedTuple):
    """One image as it goes into the set, or what is wrong with it."""

    encoded: bytes
    size_hw: tuple[int, int]
    problem: str | None


class _Encoder(Dataset[_Item]):
    """What a worker process does with each image."""

    def __init__(self, source: ImageSource, settings: PackSettings) -> None:
        self.source, self.settings = source, settings

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> _Item:
        encoded = self.source.read_bytes(index)
        try:
            image = decode_image(encoded, f"{self.source.root / self.source.name_of(index)}")
        except ImageError as error:
            return _Item(b"", (0, 0), str(error))
        if self.settings.reencode:
            options = [cv2.IMWRITE_JPEG_QUALITY, self.settings.quality] if self.settings.reencode == "jpg" else []
            done, array = cv2.imencode(f".{self.settings.reencode}", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
            if not done:
                kind, name = self.settings.reencode, self.source.root / self.source.name_of(index)
                return _Item(
                    b"", (0, 0), f"{name}: {image.shape[1]} x {image.shape[0]} pixels cannot be written as {kind}"
                )
            encoded = array.tobytes()
        return _Item(encoded, (image.shape[0], image.shape[1]), None)


def _as_list(items: list[_Item]) -> list[_Item]:
    return items


def _encoded(source: ImageSource, settings: PackSettings) -> Iterator[_Item]:
    """All images in their order; a data loader keeps it, and runs ahead of the writing by a few batches only."""
    processes = settings.workers if settings.workers > 1 else 0
    batches = DataLoader(
        _Encoder(source, settings),
        batch_size=64,
        collate_fn=_as_list,
        **loader_processes(processes),
    )
    with progress_bar(total=len(source), desc="Packing", unit="image") as bar:
        for batch in batches:
            yield from batch
            bar.update(len(batch))


def unpack(source: RecordSource, out: str | Path, landmarks: Landmarks | None = None) -> int:
    """Write the images of a RecordIO set to a folder for each identity, their bytes as they are.

    Names are those of `train.tsv` where it has them, else `<label>/<key>` and a suffix by the format.

    Args:
        source: the images.
        out: folder to make; one that is there must be empty.
        landmarks: of the images of `source`, for `landmarks.csv`; images without are left out of it.

    Returns:
        The number of images.

    Raises:
        ValueError: names that are twice, that lead elsewhere, or that are not of all images; `out` is not empty.
        RecordError, OSError: something cannot be read or written. `out` is then not there.
    """
    out = Path(out)
    _check_apart(out, source.root)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out}: exists and is not an empty folder")
    names = _read_names(source)
    with whole_folder(out) as partial:
        written: list[str] = []
        for index in progress_bar(range(len(source)), desc="Unpacking", unit="image"):
            encoded = source.read_bytes(index)
            name = names[index] if names else f"{source.labels[index]}/{source.key_of(index)}{_suffix(encoded)}"
            path = partial / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as file:
                file.write(encoded)
            written.append(name)
        if landmarks is not None:
            found = np.flatnonzero(landmarks.found)
            chosen = landmarks.take(found)
            write_landmarks(partial / "landmarks.csv", [written[i] for i in found], chosen.points, chosen.scores)
    return len(source)


def _suffix(encoded: bytes) -> str:
    return _SUFFIXES.get(encoded[:2], ".jpg")


def _read_names(source: RecordSource) -> list[str]:
    """From `train.tsv`; none where there is no such file."""
    path = source.root / NAMES_FILE
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8", errors="surrogateescape")
    rows = [line.split("\t") for line in text.split("\n") if line]
    names = {row[0]: row[1] for row in rows if len(row) == 3}
    labels = {row[0]: row[2] for row in rows if len(row) == 3}
    if len(names) != len(rows) or len(rows) != len(source):
        raise ValueError(f"{path}: expected key, path and label of {len(source)} images, found {len(names)} of them")
    if len(set(names.values())) < len(names):
        raise ValueError(f"{path}: {len(names) - len(set(names.values()))} path(s) come twice")
    ordered = []
    owners: dict[str, str] = {}
    for index in range(len(source)):
        name = names.get(source.key_of(index))
        if name is None or not 2 <= len(name.split("/")) <= 3 or {"", ".", ".."} & set(name.split("/")):
            raise ValueError(f"{path}: {source.name_of(index)}: expected identity/image, found {name!r}")
        label = str(source.labels[index])
        if labels[source.key_of(index)].strip() != label:
            raise ValueError(
                f"{path}: {source.name_of(index)} has label {label}, the table {labels[source.key_of(index)]!r}"
            )
        identity = name.rpartition("/")[0]
        if owners.setdefault(identity, label) != label:
            raise ValueError(
                f"{path}: {source.name_of(index)}: folder {identity} has labels {owners[identity]}, {label}"
            )
        ordered.append(name)
    return ordered
