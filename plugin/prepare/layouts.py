"""The raw layouts of the gait sets: which files of a sequence's folder are which stream, and what is in them.

Sources: OpenGait's datasets/{Gait3D,GREW,SUSTech1K,CCPG,OUMVLP}/README.md and the scripts named there, observed:

| set       | silhouettes                              | poses                                                        |
| --------- | ---------------------------------------- | ------------------------------------------------------------ |
| Gait3D    | PNG, human crop                          | text, pixels of that crop                                    |
| GREW      | PNG, 64 x 64 normalised already          | text `pose_00001_2d_pose.txt`, pixels of a crop that is lost |
| SUSTech1K | one of 16 pickles, normalised already    | another of the 16, pixels of a crop that is lost             |
| CCPG      | one of 4 pickles, normalised already     | pickle or text, pixels of a crop that is lost                |
| OUMVLP    | PNG, whole image                         | JSON of everybody seen, 18 joints, pixels of that image      |

Wherever there are PNG or text files, what OpenGait's pretreatment pickled of them (one VIEW.pkl) is read too.
"""

import re
from dataclasses import dataclass
from fnmatch import translate
from functools import lru_cache
from typing import Literal, TypeAlias

__all__ = ["RAW_LAYOUTS", "FrameNumber", "RawLayout", "SilhouettePixels", "matching"]

FrameNumber: TypeAlias = Literal["first", "last"]
SilhouettePixels: TypeAlias = Literal["crop", "normalised"]


@dataclass(frozen=True, kw_only=True)
class RawLayout:
    """How one set's sequences lie in ROOT/ID/type/view.

    Raises:
        ValueError: a pattern ends in no suffix that the stream can be read from.
    """

    silhouette_files: tuple[str, ...] = ("*.png", "*.pkl")
    """Patterns of the file names that are silhouettes: a PNG a frame, or one pickle."""

    pose_files: tuple[str, ...] = ("*.txt", "*.pkl")
    """Patterns of the file names that are poses: a text or JSON file a frame, or one pickle."""

    frame_number: FrameNumber = "last"
    """Which run of digits in a file's name is the number of its frame."""

    silhouette_pixels: SilhouettePixels = "crop"
    """Whether PNG files are crops or images still to be normalised, or 64 x 64 and normalised already."""

    pose_shapes: tuple[tuple[int, ...], ...] = ((17, 3),)
    """What a frame of pickled poses may be: COCO's joints; OpenPose's (18, 3); or (53,), a line of the text files."""

    def __post_init__(self) -> None:
        for name, suffixes in (("silhouette_files", (".png", ".pkl")), ("pose_files", (".txt", ".json", ".pkl"))):
            patterns = getattr(self, name)
            wrong = [pattern for pattern in patterns if not pattern.endswith(suffixes)]
            if wrong or not patterns:
                found = " and ".join(wrong) or "none"
                raise ValueError(f"{name}: patterns must end in {', '.join(suffixes)}, got {found}")


RAW_LAYOUTS = {
    "Gait3D": RawLayout(),
    "GREW": RawLayout(
        pose_files=("*_2d_pose.txt", "*.pkl"),
        frame_number="first",
        silhouette_pixels="normalised",
        pose_shapes=((17, 3), (53,)),
    ),
    # [0-9] after the first hyphen: not the *-sync-* files, which are at the LiDAR's 10 Hz.
    "SUSTech1K": RawLayout(
        silhouette_files=("??-[0-9]*-Camera-Sils_aligned.pkl",), pose_files=("??-[0-9]*-Camera-Pose.pkl",)
    ),
    "CCPG": RawLayout(silhouette_files=("*-aligned-sils.pkl",), pose_shapes=((17, 3), (18, 3))),
    "OUMVLP": RawLayout(pose_files=("*.json", "*.pkl"), frame_number="first", pose_shapes=((17, 3), (18, 3))),
}
"""By the names that OpenGait's configs have for the sets."""


def matching(names: list[str], patterns: tuple[str, ...]) -> list[str]:
    """Those names that match one of the patterns (as a shell's; capitals matter)."""
    match = _expression(patterns).match
    return [name for name in names if match(name)]


@lru_cache
def _expression(patterns: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(translate, patterns)))
