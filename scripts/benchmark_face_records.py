"""Time the reading of training images: RecordIO sets, folders of the same images, and a plain reader in file order.

    python scripts/benchmark_face_records.py --out scripts/results/face_records.json

The images are made up: smooth noise of 112 px, as JPEG of about 5 KB. All take turns within one process, so that ratios
do not depend on what else the machine does, and all files are in the system's cache: what is compared is the work of
reading, not the disk. The plain reader is what a loop over the file amounts to: head by head, payload by payload.
"""

import argparse
import json
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from torch.utils.data import DataLoader, Dataset

from common.runtime.benchmark import environment, ratios, spread, time_rounds
from common.runtime.files import write_text
from common.runtime.progress import progress_bar
from face.data import (
    FolderSource,
    ImageSource,
    RecordSource,
    RecordWriter,
    decode_image,
    open_source,
    read_landmarks,
    write_cvlface_landmarks,
)
from face.data.records.index import Index, read_index
from face.data.records.labels import LABEL_FILE, scan_labels
from face.data.records.reading import RecordFile

IMAGES_OF_AN_IDENTITY = 50

Steps = dict[str, Callable[[], object]]


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code: 0, or 2 for wrong input."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=20_000, metavar="N", help="of the set (default: %(default)s)")
    parser.add_argument(
        "--labels", type=int, default=1_000_000, metavar="N", help="records of the label scan (default: %(default)s)"
    )
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2], metavar="N", help="of the data loaders")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="rounds (default: %(default)s)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON file to write")
    options = parser.parse_args(argv)
    if min(options.images, options.labels, options.repeats, *options.workers, 1) < 1:
        parser.error("--images, --labels, --workers and --repeats must be >= 1")
    cv2.setNumThreads(1)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            report = run(options, Path(scratch))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    text = json.dumps(report, indent=2)
    print(text)
    if options.out:
        write_text(options.out, text + "\n")
    return 0


def run(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Everything that is reported."""
    folder, records = make_set(scratch, options.images)
    order = np.random.default_rng(0).permutation(len(records)).tolist()
    mean_bytes = (records.root / "train.rec").stat().st_size / len(records)
    report: dict[str, Any] = {
        **environment("cpu"),
        "opencv": cv2.__version__,
        "cv2_threads": 1,
        "images": len(records),
        "mean_bytes_of_a_record": mean_bytes,
        "reading": compare_reading(folder, records, order, options.repeats),
    }
    if options.workers:
        report["loading"] = compare_loading(folder, records, options.workers, options.repeats)
    report["opening"] = compare_opening(records.root, scratch / "labels", options.labels, options.repeats)
    return report


def make_set(scratch: Path, count: int) -> tuple[FolderSource, RecordSource]:
    """The same images as a folder for each identity and as records, read once so that they are in the cache."""
    random = np.random.default_rng(0)
    with RecordWriter(scratch / "records") as writer:
        for number in progress_bar(range(count), desc="Images", unit="image", leave=False):
            coarse = random.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            image = cv2.resize(coarse, (112, 112), interpolation=cv2.INTER_CUBIC)
            encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
            label = number // IMAGES_OF_AN_IDENTITY
            path = scratch / "folder" / f"{label:05d}" / f"{number:07d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded)
            writer.write(encoded, label)
    folder, records = FolderSource(scratch / "folder"), RecordSource(scratch / "records")
    for index in range(count):
        if folder.read_bytes(index) != records.read_bytes(index):
            raise ValueError(f"image {index}: the folder and the records differ")
    return folder, records


def read_plainly(path: Path) -> Iterator[bytes]:
    """The images of a set in the order of the file, as a loop without an index, checks or parts has them."""
    with path.open("rb") as file:
        while head := file.read(8):
            length = struct.unpack("<II", head)[1]
            payload = file.read(length + -length % 4)
            (labels,) = struct.unpack_from("<I", payload)
            if not labels:
                yield payload[24:length]


def _read_all(source: ImageSource, order: Sequence[int], decoded: bool) -> None:
    read = source.read if decoded else source.read_bytes
    for index in order:
        read(index)


def _read_plainly(path: Path, decoded: bool) -> None:
    for encoded in read_plainly(path):
        if decoded:
            decode_image(encoded, "image")


def compare_reading(folder: FolderSource, records: RecordSource, order: list[int], repeats: int) -> dict[str, Any]:
    """All images, in random order and, for the sake of the plain reader, in that of the file."""
    path = records.root / "train.rec"
    steps: Steps = {}
    for kind, decoded in (("bytes", False), ("decoded", True)):
        steps[f"records, random, {kind}"] = partial(_read_all, records, order, decoded)
        steps[f"records, in order, {kind}"] = partial(_read_all, records, range(len(records)), decoded)
        steps[f"folder, random, {kind}"] = partial(_read_all, folder, order, decoded)
        steps[f"plain reader, in order, {kind}"] = partial(_read_plainly, path, decoded)
    times = time_rounds(steps, repeats, title="Reading")
    return {
        "microseconds_an_image": {
            name: spread([1e6 * seconds / len(records) for seconds in found]) for name, found in times.items()
        },
        "folder_over_records": {
            kind: ratios(times[f"folder, random, {kind}"], times[f"records, random, {kind}"])
            for kind in ("bytes", "decoded")
        },
        "records_over_plain_reader_in_order": {
            kind: ratios(times[f"records, in order, {kind}"], times[f"plain reader, in order, {kind}"])
            for kind in ("bytes", "decoded")
        },
    }


class _Decoded(Dataset[int]):
    """Reads and decodes, and returns next to nothing: how images get to the main process is not the readers' work."""

    def __init__(self, source: ImageSource) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> int:
        return self.source.read(index).shape[0]


def _load_all(source: ImageSource, workers: int) -> None:
    seen = sum(len(batch) for batch in DataLoader(_Decoded(source), batch_size=128, shuffle=True, num_workers=workers))
    if seen != len(source):
        raise ValueError(f"{seen} of {len(source)} images came out of the data loader")


def compare_loading(
    folder: FolderSource, records: RecordSource, workers: Sequence[int], repeats: int
) -> dict[str, Any]:
    """A pass over all images in random order by worker processes, their start included."""
    sources: dict[str, ImageSource] = {"records": records, "folder": folder}
    steps: Steps = {
        f"{name}, {count} worker(s)": partial(_load_all, source, count)
        for count in workers
        for name, source in sources.items()
    }
    times = time_rounds(steps, repeats, title="Loading")
    first, *more = workers
    return {
        "images_a_second": {
            name: spread([len(records) / seconds for seconds in found]) for name, found in times.items()
        },
        "folder_over_records": {
            f"{count} worker(s)": ratios(times[f"folder, {count} worker(s)"], times[f"records, {count} worker(s)"])
            for count in workers
        },
        "speed_up_of_records": {
            f"{count} over {first}": ratios(times[f"records, {first} worker(s)"], times[f"records, {count} worker(s)"])
            for count in more
        },
    }


def compare_opening(images: Path, folder: Path, count: int, repeats: int) -> dict[str, Any]:
    """Labels, index and landmarks of a set with many records, of 64 bytes each; labels also of the set of images,
    whose heads are pages apart."""
    make_heads(folder, count)
    index = read_index(folder / "train.idx")
    file = RecordFile(folder / "train.rec")
    apart, of_images = RecordFile(images / "train.rec"), read_index(images / "train.idx")
    only = of_images.keys <= len(RecordSource(images))
    of_images = Index(of_images.keys[only][1:], of_images.offsets[only][1:])  # without header and ranges
    source = open_source(folder)
    table = folder / "ldmk_5points.csv"
    write_cvlface_landmarks(table, np.random.default_rng(0).random((count, 5, 2)))
    steps: Steps = {
        "labels": partial(scan_labels, file, index.keys, index.offsets),
        "labels, one by one": partial(scan_one_by_one, file, index),
        "labels of the images": partial(scan_labels, apart, of_images.keys, of_images.offsets),
        "labels of the images, one by one": partial(scan_one_by_one, apart, of_images),
        "index": partial(read_index, folder / "train.idx"),
        "index, line by line": partial(read_index_by_lines, folder / "train.idx"),
        "opened, labels kept": partial(open_source, folder),
        "landmarks": partial(read_landmarks, table, source),
    }
    times = time_rounds(steps, repeats, title="Opening")
    (folder / LABEL_FILE).unlink()
    return {
        "records": count,
        "seconds": {name: spread(found) for name, found in times.items()},
        "one_by_one_over_labels": ratios(times["labels, one by one"], times["labels"]),
        "one_by_one_over_labels_of_the_images": ratios(
            times["labels of the images, one by one"], times["labels of the images"]
        ),
        "line_by_line_over_index": ratios(times["index, line by line"], times["index"]),
    }


def make_heads(folder: Path, count: int) -> None:
    """A set whose records hold a head and 32 bytes that stand for an image, in CVLface's convention."""
    folder.mkdir()
    records = np.zeros(count, np.dtype([(name, "<u4") for name in ("magic", "length", "flag")] + [("label", "<f4")] +
                                       [("ids", "<u8", (2,)), ("image", "u1", (32,))]))  # fmt: skip
    records["magic"], records["length"] = 0xCED7230A, 24 + 32
    records["label"] = np.arange(count) // IMAGES_OF_AN_IDENTITY
    records.tofile(folder / "train.rec")
    lines = (f"{key}\t{key * records.itemsize}\n" for key in range(count))
    (folder / "train.idx").write_text("".join(lines))


def scan_one_by_one(file: RecordFile, index: Index) -> list[int]:
    """The labels as a loop that seeks and unpacks each head."""
    labels = []
    with file.path.open("rb") as opened:
        for offset in index.offsets.tolist():
            opened.seek(offset)
            _, _, count, label = struct.unpack("<IIIf", opened.read(16))
            if count:
                raise ValueError(f"{file.path}: a list of labels at {offset}")
            labels.append(int(label))
    return labels


def read_index_by_lines(path: Path) -> dict[int, int]:
    """The index as a loop over its lines."""
    places = {}
    with path.open() as file:
        for line in file:
            key, offset = line.split("\t")
            places[int(key)] = int(offset)
    return places


if __name__ == "__main__":
    raise SystemExit(main())
