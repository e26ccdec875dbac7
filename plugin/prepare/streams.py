"""The two streams of a sequence: which files they are, whether they can be the right ones, and which frames pair.

Frames pair by the number in their names, and order by it. A stream that is already pickled has lost its numbers; it
pairs with the other stream one to one if both are equally long, in the order of the names, which is the order in
which OpenGait's pretreatment stacks frames (f1002 before f998). Files beside a pickle give their numbers back, so
such sequences are put into numerical order again; of two pickles the order is kept.

Shape letters: T frames.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np

from common.runtime.arrays import load_array, peek_array
from plugin.prepare.layouts import RawLayout, matching
from plugin.prepare.normalise import HEIGHT
from plugin.prepare.people import to_coco
from plugin.prepare.raw import FrameFiles, list_frames, read_png_size
from plugin.prepare.settings import PrepareSettings

__all__ = ["Frame", "check_streams", "open_poses", "open_silhouettes", "pair_frames"]

_SILHOUETTE_SHAPES = ((HEIGHT, 64), (HEIGHT, 44))
_LOOKED_AT = 8
_NAMED = 5

Frame: TypeAlias = str | np.ndarray
"""A file's path, or one frame of a pickled array."""

Stream: TypeAlias = FrameFiles | np.ndarray


def open_silhouettes(sequence: str, settings: PrepareSettings) -> Stream:
    """PNG files of a sequence, or its pickled array [T, 64, 64 or 44] uint8.

    Raises:
        ValueError: neither or both, several pickles, or a pickle of something else.
    """
    layout = settings.layout
    stream = _open_stream(settings.silhouettes / sequence, layout.silhouette_files, layout)
    if isinstance(stream, np.ndarray):
        shape = stream.shape
        if len(shape) != 3 or shape[1:] not in _SILHOUETTE_SHAPES or stream.dtype != np.uint8:
            raise ValueError(
                f"pickled silhouettes must be [T, 64, 64] or [T, 64, 44] uint8, found {list(shape)} {stream.dtype}"
            )
        if shape[2] < settings.width:
            raise ValueError(f"pickled silhouettes are {shape[2]} wide, {settings.width} cannot be made of them")
    return stream


def open_poses(sequence: str, settings: PrepareSettings) -> Stream:
    """Text or JSON files of a sequence, or its pickled array, brought to [T, 17, 3] in COCO's order.

    Raises:
        ValueError: neither or both, several pickles, or a pickle of something else.
    """
    layout = settings.layout
    stream = _open_stream(settings.poses / sequence, layout.pose_files, layout)
    if isinstance(stream, np.ndarray):
        if stream.shape[1:] not in layout.pose_shapes or stream.dtype.kind not in "iuf":
            expected = " or ".join(str(["T", *shape]).replace("'", "") for shape in layout.pose_shapes)
            raise ValueError(f"pickled poses must be {expected} numbers, found {list(stream.shape)} {stream.dtype}")
        if stream.ndim == 2:  # lines of the text files: two numbers lead
            stream = stream[:, 2:].reshape(len(stream), -1, 3)
        return to_coco(stream)
    if settings.pose_coordinates == "normalised":
        raise ValueError("text poses are in crop pixels; normalised coordinates are for pickled poses")
    return stream


def _names(folder: Path) -> list[str]:
    try:
        return [name for name in os.listdir(folder) if not name.startswith(".")]
    except OSError as error:
        raise ValueError(f"{folder}: {error.strerror}") from None


def _open_stream(folder: Path, patterns: tuple[str, ...], layout: RawLayout) -> Stream:
    """The numbered files of a sequence's folder, or the array of its one pickle."""
    names = _names(folder)
    found = matching(names, patterns)
    pickles = [name for name in found if name.endswith(".pkl")]
    files = [name for name in found if not name.endswith(".pkl")]
    if bool(files) == bool(pickles) or len(pickles) > 1:
        wanted = " or ".join(f"one {name}" if name.endswith(".pkl") else f"{name} files" for name in patterns)
        raise ValueError(f"{folder}: expected {wanted}, found {_listed(found or names)}")
    if files:
        return list_frames(folder, files, layout.frame_number)
    try:
        return load_array(folder / pickles[0])
    except OSError as error:
        raise ValueError(f"{folder / pickles[0]}: {error.strerror}") from None


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(sorted(names)[:_NAMED]) + more if names else "no files"


def check_streams(plan: Sequence[str], settings: PrepareSettings) -> None:
    """Look at the first few sequences of `plan` for a mistake that would make every single one fail.

    Raises:
        ValueError: --silhouettes and --poses are swapped, the folders hold other files than the set's, PNG files said
            to be normalised are not 64 x 64, or poses in files are said to be in normalised coordinates.
    """
    layout = settings.layout
    rights = _kinds_of(layout.silhouette_files, "silhouettes"), _kinds_of(layout.pose_files, "poses")
    streams = (
        ("--silhouettes", settings.silhouettes, layout.silhouette_files, rights[0], rights[1] - rights[0]),
        ("--poses", settings.poses, layout.pose_files, rights[1], rights[0] - rights[1]),
    )
    in_one_folder = settings.silhouettes == settings.poses and all(len(right) == 1 for right in rights)
    poses: set[str] = set()
    for option, root, patterns, right, swapped in streams:
        folders = [root / sequence for sequence in plan[:_LOOKED_AT]]
        named = _look(folders, patterns)
        others = named or _look(folders, ("*",))
        poses = _kinds(others)
        if not others or (named and (poses & right or not poses)):
            continue
        found = " and ".join(sorted(poses))
        hint = ""
        if poses & swapped and not in_one_folder:
            hint = "; are --silhouettes and --poses swapped?"
        elif not named:
            folder = others[0].parent
            found = f"{_listed([path.name for path in others if path.parent == folder])} in {folder}"
        named_so = "" if named or hint else f" named {' or '.join(patterns)} (--dataset {settings.dataset})"
        raise ValueError(f"{option} {root}: expected {' or '.join(sorted(right))}{named_so}, found {found}{hint}")
    _check_normalised(plan, settings)
    if settings.pose_coordinates == "normalised" and poses and "pickled poses" not in poses:
        raise ValueError(
            f"--pose-coordinates normalised is for pickled poses; --poses {settings.poses}: "
            f"found {' and '.join(sorted(poses))}, which are in crop pixels"
        )


def _check_normalised(plan: Sequence[str], settings: PrepareSettings) -> None:
    layout = settings.layout
    if layout.silhouette_pixels != "normalised":
        return
    folders = [settings.silhouettes / sequence for sequence in plan[:_LOOKED_AT]]
    for path in [path for path in _look(folders, layout.silhouette_files) if path.suffix == ".png"][:1]:
        width, height = read_png_size(path) or (HEIGHT, HEIGHT)  # what cannot be read is for the report
        if (width, height) != (HEIGHT, HEIGHT):
            raise ValueError(
                f"{path}: expected silhouettes that are normalised already, {HEIGHT} x {HEIGHT} (--dataset "
                f"{settings.dataset}), found {width} x {height}; crops are read with --silhouette-pixels crop"
            )


def _look(folders: Sequence[Path], patterns: tuple[str, ...]) -> list[Path]:
    """Files of those folders that can be listed; what is wrong with the others is for the report."""
    found = []
    for folder in folders:
        try:
            found += [folder / name for name in matching(sorted(_names(folder)), patterns)]
        except ValueError:
            continue
    return found


def _kinds_of(patterns: tuple[str, ...], stream: str) -> set[str]:
    return {f"pickled {stream}" if name.endswith(".pkl") else f"{Path(name).suffix} files" for name in patterns}


def _kinds(files: Sequence[Path]) -> set[str]:
    """Which of the known kinds of frames the files are; what is unknown or unreadable is for the report."""
    kinds = {f"{path.suffix} files" for path in files if path.suffix in (".png", ".txt", ".json")}
    for path in files:
        if path.suffix == ".pkl":
            try:
                shape = peek_array(path)[0][1:]
            except (ValueError, OSError):
                continue
            kinds |= {"pickled poses"} if shape in ((17, 3), (18, 3), (53,)) else set()
            kinds |= {"pickled silhouettes"} if shape in _SILHOUETTE_SHAPES else set()
    return kinds


def pair_frames(silhouettes: Stream, poses: Stream, drop: Callable[[str, int, str], None]) -> list[tuple[Frame, Frame]]:
    """Silhouette and pose of each frame that has both, in the order of their numbers.

    Args:
        silhouettes: files or pickled array.
        poses: files or pickled array.
        drop: told the reason, the number of frames (may be 0) and an example of what is left out.

    Raises:
        ValueError: a pickle beside a stream of another length.
    """
    for stream in (silhouettes, poses):
        if isinstance(stream, FrameFiles) and stream.unnumbered:
            first = f"{stream.folder / stream.unnumbered[0]}: no number in the name"
            drop("no_number", len(stream.unnumbered), first)
    by_silhouette, by_pose = _numbered(silhouettes), _numbered(poses)
    if isinstance(silhouettes, np.ndarray) or isinstance(poses, np.ndarray):
        if len(by_silhouette) != len(by_pose):
            raise ValueError(
                f"{len(by_silhouette)} silhouettes and {len(by_pose)} poses: "
                "pickled frames have no numbers, so only equally long streams can be paired"
            )
        # Position by position; where one stream knows the numbers, the other gets them.
        numbers = list(by_pose if isinstance(silhouettes, np.ndarray) else by_silhouette)
        by_silhouette = dict(zip(numbers, by_silhouette.values(), strict=True))
        by_pose = dict(zip(numbers, by_pose.values(), strict=True))

    for reason, some, other in (
        ("no_pose", by_silhouette, by_pose),
        ("no_silhouette", by_pose, by_silhouette),
    ):
        alone = sorted(some.keys() - other.keys())
        drop(reason, len(alone), f"frame {alone[0]}" if alone else "")
    return [(by_silhouette[number], by_pose[number]) for number in sorted(by_silhouette.keys() & by_pose.keys())]


def _numbered(stream: Stream) -> dict[int, Frame]:
    if isinstance(stream, np.ndarray):
        return dict(enumerate(stream))
    folder = os.fspath(stream.folder)
    return {number: f"{folder}{os.sep}{name}" for number, name in stream.names.items()}
