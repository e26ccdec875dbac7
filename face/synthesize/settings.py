"""What a set of synthetic faces is made of: one frozen, checked record.

Everything that changes the files is in here; the number of worker processes is not, because it changes nothing.
"""

import math
from dataclasses import dataclass, field

from common.runtime.synthesis import check_settings, setting

__all__ = ["IMAGE_FORMATS", "PARTS", "TRAIN_CROPS", "SynthesisSettings"]

PARTS = ("folders", "records", "bins", "wider", "benchmarks")
_WITHOUT_IDENTITIES = {"wider", "benchmarks"}  # of training and testing
TRAIN_CROPS = ("aligned", "unaligned", "both")
IMAGE_FORMATS = ("jpg", "png")
FOLDS = 10


@dataclass(frozen=True, kw_only=True)
class SynthesisSettings:
    """Settings of `synthesize`. Each field's meaning is its `metadata["text"]`, which the command line shows.

    Raises:
        ValueError: naming the field, what is allowed and the value found; or when there are not so many different
            pairs of test images, or no identities at all.
    """

    identities: int = setting(200, "identities for training", 0, 99_999)
    images_per_identity: int = setting(20, "images of each of them", 1, 9_999)
    test_identities: int = setting(60, "further identities for testing", 0, 99_999)
    test_images_per_identity: int = setting(10, "images of each of those", 1, 9_999)
    pairs: int = setting(600, "pairs for verification, in ten folds; a multiple of 20", 20)
    write: str = field(
        default="folders,records,bins",
        metadata={
            "text": f"what to write, any of {','.join(PARTS)} (image folders, RecordIO, insightface's .bin; "
            "photographs of several faces as WIDER FACE and WFLW have them; small benchmarks in the layouts of LFW's "
            "kind, IJB-B, IJB-C, TinyFace and IJB-S)"
        },
    )
    train_crops: str = field(
        default="aligned", metadata={"text": "which crops of the training images", "choices": TRAIN_CROPS}
    )
    train_format: str = field(
        default="jpg", metadata={"text": "format of the training images (tests are PNG)", "choices": IMAGE_FORMATS}
    )
    crop_size: int = setting(112, "height and width of the crops in pixels", 32, 512)
    max_yaw: float = setting(45.0, "largest turn to a side in degrees", 0, 45)
    max_pitch: float = setting(20.0, "largest turn up or down in degrees", 0, 40)
    max_roll: float = setting(20.0, "largest turn in the image plane in degrees", 0, 180)
    occlusion: float = setting(0.1, "probability that something hides a part of the face", 0, 1)
    poor_camera: float = setting(0.3, "probability of strong blur, noise and low resolution", 0, 1)
    crop_shift: float = setting(0.12, "largest shift of an unaligned crop, as a share of its side", 0, 0.5)
    crop_scale: float = setting(0.3, "largest change of an unaligned crop's size, as a share of it", 0, 0.5)
    photographs: int = setting(200, "photographs for training, of --write wider", 1, 99_999)
    val_photographs: int = setting(50, "photographs for validation, of --write wider", 1, 99_999)
    photograph_size: int = setting(768, "longer side of a photograph in pixels", 128, 4096)
    benchmark_identities: int = setting(10, "identities of each benchmark, of --write benchmarks", 2, 999)
    benchmark_frames: int = setting(5, "frames of the longest video, of --write benchmarks", 1, 99)
    seed: int = setting(0, "same seed and settings, same bytes", 0)

    def __post_init__(self) -> None:
        check_settings(self)
        parts = self.write.split(",") if isinstance(self.write, str) else []
        if not parts or any(part not in PARTS for part in parts) or len(set(parts)) < len(parts):
            raise ValueError(f"write must be some of {','.join(PARTS)}, joined by commas, got {self.write!r}")
        if set(parts) <= _WITHOUT_IDENTITIES:
            return
        if not self.identities and not self.test_identities:
            raise ValueError("identities and test_identities must not both be 0")
        if set(parts) <= {"bins", *_WITHOUT_IDENTITIES} and not self.test_identities:
            raise ValueError("write bins alone needs test_identities >= 1, which they are of, got 0")
        if self.test_identities:
            self._check_pairs()

    def _check_pairs(self) -> None:
        if self.pairs % (2 * FOLDS):
            raise ValueError(f"pairs must be a multiple of {2 * FOLDS} (ten folds, half of each), got {self.pairs}")
        people, images = self.test_identities, self.test_images_per_identity
        same, different = people * math.comb(images, 2), math.comb(people, 2) * images**2
        if min(same, different) < self.pairs // 2:
            raise ValueError(
                f"pairs ({self.pairs}) must be <= {2 * min(same, different)}: {people} test identities of {images} "
                f"images make {same} pairs of the same one and {different} of two"
            )

    @property
    def parts(self) -> tuple[str, ...]:
        """What is written, of `PARTS`."""
        return tuple(self.write.split(","))

    @property
    def writes_identities(self) -> bool:
        """Whether there is anything but photographs and benchmarks."""
        return not set(self.parts) <= _WITHOUT_IDENTITIES

    @property
    def scene_size(self) -> int:
        """Height and width of the scenes that are cropped, in pixels: a face is as large there as in its crop."""
        return round(self.crop_size * 12 / 7)
