"""Synthetic photographs in the layouts of WIDER FACE, with RetinaFace's labels, and of WFLW's lists.

    out/wider/WIDER_train/images/<event>/<name>.jpg, out/wider/WIDER_val/images/...
    out/wider/train/label.txt, out/wider/val/label.txt                     all faces; -1 for landmarks nobody can place
    out/wider/wflw/list_98pt_rect_attr_train.txt, ..._test.txt             of the same images, the larger faces

Of WFLW's 98 points five are exact, see outlines.py; its lists are of the images below WIDER_train and WIDER_val.
"""

from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2

from common.runtime.files import write_bytes, write_text
from common.runtime.progress import progress_bar
from common.runtime.workers import work_all
from face.synthesize.images import Split
from face.synthesize.photographs import PaintedFace, render_photograph
from face.synthesize.settings import SynthesisSettings

__all__ = ["write_wider"]

_JPEG_QUALITY = 92
_WFLW_HEIGHT = 40  # pixels of the smallest face in WFLW's lists
_NAMES = {Split.TRAIN: ("train", "train"), Split.TEST: ("val", "test")}  # in WIDER FACE and in WFLW


class _Labelled(NamedTuple):
    """A photograph that was written, and its lines in the label files."""

    split: Split
    number: int
    retinaface: str
    wflw: str


def write_wider(settings: SynthesisSettings, out: str | Path, *, workers: int = 1, progress: bool = False) -> None:
    """Write the photographs of both splits, and their labels.

    Args:
        settings: how many, how large, and of what poses and cameras.
        out: where; the folder `wider` in it is made.
        workers: processes; they change nothing but the speed.
        progress: show a bar.

    Raises:
        OSError: something cannot be written.
        BrokenProcessPool: a worker process died.
    """
    root = Path(out) / "wider"
    tasks = [(Split.TRAIN, number) for number in range(settings.photographs)]
    tasks += [(Split.TEST, number) for number in range(settings.val_photographs)]
    with (
        progress_bar(total=len(tasks), unit="photograph", disable=not progress) as bar,
        closing(work_all(partial(_write_photograph, settings, root), tasks, workers)) as written,
    ):
        labelled = []
        for each in written:
            labelled.append(each)
            bar.update()
    labelled.sort(key=lambda each: (each.split, each.number))
    for split, (wider, wflw) in _NAMES.items():
        own = [each for each in labelled if each.split == split]
        for path, lines in (
            (root / wider / "label.txt", [each.retinaface for each in own]),
            (root / "wflw" / f"list_98pt_rect_attr_{wflw}.txt", [each.wflw for each in own]),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, "".join(lines))


def _write_photograph(settings: SynthesisSettings, root: Path, task: tuple[Split, int]) -> _Labelled:
    split, number = task
    shot = render_photograph(settings, split, number)
    name = f"{shot.event}/{shot.event.replace('--', '_')}_synthetic_{number:05d}.jpg"
    path = root / f"WIDER_{_NAMES[split][0]}" / "images" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    options = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    write_bytes(path, cv2.imencode(".jpg", shot.image[..., ::-1], options)[1].tobytes())
    faces = shot.faces[::-1]  # the nearest first
    retinaface = f"# {name}\n" + "".join(f"{_retinaface_line(face)}\n" for face in faces)
    large = [face for face in faces if face.clear and face.box[3] - face.box[1] >= _WFLW_HEIGHT]
    return _Labelled(split, number, retinaface, "".join(f"{_wflw_line(face, name)}\n" for face in large))


def _retinaface_line(face: PaintedFace) -> str:
    left, top, right, bottom = face.box.tolist()
    entries = [f"{left} {top} {right - left} {bottom - top}"]
    if not face.clear:
        return " ".join(entries + ["-1.0"] * 16)
    for (x, y), hidden in zip(face.landmarks.tolist(), face.hidden.tolist(), strict=True):
        entries.append(f"{x:.3f} {y:.3f} {float(hidden)}")
    return " ".join([*entries, "0.5"])


def _wflw_line(face: PaintedFace, name: str) -> str:
    points = " ".join(f"{value:.6f}" for value in face.outline.ravel().tolist())
    attributes = f"0 0 0 0 {int(face.hidden.any())} 0"  # pose, expression, light, make-up, occlusion, blur
    return f"{points} {' '.join(map(str, face.box.tolist()))} {attributes} {name}"
