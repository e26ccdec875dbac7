"""Thresholds of similarity from a set of pairs: the one that accepts no more than a share (FAR) of the pairs of two
persons.

A pair is accepted where the cosine similarity of its embeddings is at least the threshold. The threshold at a FAR f is
the smallest number that accepts at most f of the N pairs of different persons; nothing is interpolated or fitted to the
tail, so a FAR below 1 / N is refused. What holds for other images is only as good as the set is like them, and as
large: the interval says how far off the FAR may be from so many pairs alone.

Scores are kept beside the set, in a file whose name has a checksum of all that they depend on: weights, pipeline,
images, landmarks, pairs.

Shape letters: n pairs, N of different persons.
"""

import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.runtime.files import whole_file
from face.dfa.predict import weights_checksum
from face.evaluation.embed import embed_images
from face.evaluation.pairs import PairSet, open_pairs
from face.evaluation.verification import pair_distances
from face.pipelines import RecognitionPipeline

__all__ = ["Calibration", "FarThreshold", "calibrate", "score_set"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """Similarities of a set's pairs."""

    name: str
    """Of the set."""

    same: np.ndarray
    """float32 [n] in [-1, 1], rising, of the pairs of one person."""

    different: np.ndarray
    """float32 [N], rising, of the others."""

    cache: Path
    """The file that keeps them."""

    reused: bool = False
    """Whether they were read from it."""

    unwritten: str | None = None
    """Why it could not be written, if so."""

    def threshold(self, far: float) -> "FarThreshold":
        """The threshold at a FAR.

        Raises:
            ValueError: a FAR outside (0, 1), or one that the set has too few pairs of different persons to tell.
        """
        count = len(self.different)
        check_far(far, count, self.name)
        allowed = int(far * count * (1 + 1e-12))  # 0.1 * 30 is 3
        # Just above the highest score that would be one too many; equal scores are refused together.
        first_refused = self.different[count - 1 - allowed] if allowed < count else np.float32(-np.inf)
        threshold = float(np.nextafter(first_refused, np.float32(np.inf)))
        accepted = int((self.different >= threshold).sum())
        return FarThreshold(
            threshold=threshold,
            far=far,
            set_name=self.name,
            different=count,
            accepted=accepted,
            interval=_interval(accepted, count),
            tar=float((self.same >= threshold).mean()),
        )


@dataclass(frozen=True, kw_only=True)
class FarThreshold:
    """A threshold, and what is known of it."""

    threshold: float
    """Pairs of at least this similarity are taken for one person."""

    far: float
    """The FAR that was asked for, a fraction."""

    set_name: str
    """Of the set that it comes from."""

    different: int
    """N of that set."""

    accepted: int
    """How many of them reach the threshold."""

    interval: tuple[float, float]
    """95 % interval (Clopper and Pearson's) of the FAR on pairs like the set's, fractions."""

    tar: float
    """The share of the set's pairs of one person that reach it."""

    def describe(self) -> str:
        """In a line."""
        low, high = (f"{100 * edge:.2g} %" for edge in self.interval)
        return (
            f"threshold {self.threshold:.4f}: FAR {self.far:g} on {self.set_name} ({self.accepted} of {self.different} "
            f"pairs of different persons are accepted, 95 % interval {low} to {high}; of pairs of one person "
            f"{100 * self.tar:.2f} %)"
        )


def check_far(far: float, different: int, name: str) -> None:
    """Refuse a FAR that is none, or that a set of so many pairs of different persons does not tell.

    Raises:
        ValueError: either; what the set would need and what it can tell are given.
    """
    if not 0 < far < 1:
        raise ValueError(f"FAR must be between 0 and 1, got {far:g}")
    needed = int(np.ceil(1 / far * (1 - 1e-12)))
    if different < needed:
        raise ValueError(
            f"{name}: a FAR of {far:g} takes at least {needed} pairs of different persons, the set has {different}; "
            f"the smallest FAR that it tells is {1 / different:.2g}"
        )


def score_set(
    path: str | Path, pipeline: RecognitionPipeline, origin: Mapping[str, Any], far: float, **options: Any
) -> Calibration:
    """Similarities of all pairs of a set, or what an earlier call left beside it.

    Args:
        path: what `open_pairs` takes: a `.bin` file, or a folder with pairs.csv or pairs.txt.
        pipeline: that the threshold is for, on `options["device"]`.
        origin: what else scores depend on, such as the padding before the aligner; plain values.
        far: that will be asked for: a set that does not tell it is refused before its images are embedded.
        options: of `embed_images`: batch_size, device, flip_test, precision, num_workers, progress.

    Raises:
        FileNotFoundError: no such set.
        ValueError: a damaged set, one that does not tell the FAR, or without landmarks that the pipeline needs; images
            that do not decode; embeddings that are not finite.
    """
    path = Path(path)
    content = open_pairs(path, with_landmarks=pipeline.needs_keypoints)
    check_far(far, int((~content.same).sum()), content.name)
    key = _key(content, pipeline, {**origin, "flip_test": options.get("flip_test", True)}, options)
    folder = path if path.is_dir() else path.parent
    cache = folder / f".{path.name if path.suffix == '.bin' else 'pairs'}.scores-{zlib.crc32(key.encode()):08x}.npz"
    known = _read(cache, key)
    if known is None:
        embedded = embed_images(pipeline, content.images, content.landmarks, **options)
        distances = pair_distances(embedded.values, content.pairs, name_of=content.images.name_of)
        similarities = 1 - distances.astype(np.float64) / 2
        scores = [np.sort(similarities[kind].astype(np.float32)) for kind in (content.same, ~content.same)]
        unwritten = _write(cache, key, *scores)
        return Calibration(name=content.name, same=scores[0], different=scores[1], cache=cache, unwritten=unwritten)
    return Calibration(name=content.name, same=known[0], different=known[1], cache=cache, reused=True)


def calibrate(
    path: str | Path, pipeline: RecognitionPipeline, origin: Mapping[str, Any], far: float, **options: Any
) -> tuple[Calibration, FarThreshold]:
    """`score_set`, and the threshold at the FAR."""
    scores = score_set(path, pipeline, origin, far, **options)
    return scores, scores.threshold(far)


def _interval(accepted: int, count: int) -> tuple[float, float]:
    from scipy.stats import beta

    low = 0.0 if accepted == 0 else float(beta.ppf(0.025, accepted, count - accepted + 1))
    high = 1.0 if accepted == count else float(beta.ppf(0.975, accepted + 1, count - accepted))
    return low, high


def _key(content: PairSet, pipeline: RecognitionPipeline, origin: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    """What scores depend on, as text."""
    images = 0
    for index in range(len(content.images)):
        images = zlib.crc32(content.images.read_bytes(index), images)
    landmarks = content.landmarks
    return json.dumps(
        {
            **origin,
            "precision": options.get("precision", "fp32"),
            "pipeline": pipeline.kind,
            "source_size": pipeline.source_size,
            "model": weights_checksum(pipeline.model),
            "image_hw": list(pipeline.image_hw),
            "aligner": None if pipeline.aligner is None else weights_checksum(pipeline.aligner),
            "images": images,
            "pairs": zlib.crc32(content.same.tobytes(), zlib.crc32(content.pairs.tobytes())),
            "landmarks": None if landmarks is None else zlib.crc32(landmarks.points.tobytes()),
        },
        sort_keys=True,
    )


def _read(cache: Path, key: str) -> tuple[np.ndarray, np.ndarray] | None:
    """None where there are no scores of this key; what is damaged is made anew."""
    try:
        with np.load(cache, allow_pickle=False) as content:
            if str(content["key"]) == key:
                return content["same"], content["different"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass
    return None


def _write(cache: Path, key: str, same: np.ndarray, different: np.ndarray) -> str | None:
    """What went wrong, if so: a folder that may only be read is no reason to stop."""
    try:
        with whole_file(cache) as partial, partial.open("wb") as file:
            np.savez(file, key=np.array(key), same=same, different=different)
    except OSError as error:
        return f"{cache}: {error.strerror or error}"
    return None
