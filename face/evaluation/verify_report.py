"""What comes out of images compared with each other: tables, the pairs to look at, and their picture.

    pairs.csv    image1,image2,similarity,same    each pair once; same is 1 or 0, empty without a threshold
    best.csv     image,rank,match,similarity,same    the most similar images of the other side
    verify.png   the pair, or of many the most and the least similar ones
    verify.json  how all this came about, and of one pair the result

Shape letters: A images on the first side, B on the second.
"""

import csv
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.runtime.files import whole_file, write_text
from common.runtime.progress import progress_bar
from face.data.landmarks import Landmarks
from face.evaluation.pair_pictures import PairPanel, draw_pairs
from face.evaluation.verify_images import (
    ImageSides,
    Match,
    ModelView,
    best_matches,
    extreme_pairs,
    keep_extremes,
    model_view,
    similarity_blocks,
)
from face.pipelines import RecognitionPipeline

__all__ = ["Comparison", "compare", "draw_comparison", "write_record"]

_SHOWN = 6  # pairs of either kind in a picture


@dataclass(kw_only=True)
class Comparison:
    """What is kept of all pairs."""

    threshold: float | None
    """Pairs of at least this similarity are taken for one person; None: nothing is decided."""

    pairs: int = 0

    accepted: int = 0
    """Of the pairs; 0 without a threshold."""

    most_similar: list[Match] = field(default_factory=list)
    """Falling."""

    least_similar: list[Match] = field(default_factory=list)
    """Rising."""

    best: list[Match] = field(default_factory=list)
    """The best match of each image of the first side that has one, in their order."""

    def decide(self, similarity: float) -> bool | None:
        """Whether two images are taken for one person; None without a threshold."""
        return None if self.threshold is None else similarity >= self.threshold


def compare(
    embeddings: np.ndarray,
    sides: ImageSides,
    threshold: float | None = None,
    *,
    out: Path | None = None,
    best: int = 5,
    with_pairs: bool = True,
    progress: bool = False,
) -> Comparison:
    """Go through all pairs of two sides, in bounded memory.

    Args:
        embeddings: [m, E] of `sides.images`.
        threshold: of the similarity.
        out: folder for `pairs.csv` and `best.csv`, each written whole or not at all; None writes neither.
        best: matches of each image in `best.csv`.
        with_pairs: False leaves `pairs.csv` out.
        progress: whether a bar is shown.

    Raises:
        ValueError: NaN or infinity in the embeddings; the images are named.
        OSError: a table cannot be written.
    """
    found = Comparison(threshold=threshold)
    answers = {True: 1, False: 0, None: ""}
    names = sides.names
    with ExitStack() as stack:
        tables = {}
        columns: dict[str, tuple[str, ...]] = {}
        if with_pairs:
            columns["pairs"] = ("image1", "image2", "similarity", "same")
        columns["best"] = ("image", "rank", "match", "similarity", "same")
        for name in columns if out is not None else ():
            assert out is not None
            partial = stack.enter_context(whole_file(out / f"{name}.csv"))
            file = stack.enter_context(partial.open("w", newline="", encoding="utf-8", errors="surrogateescape"))
            tables[name] = csv.writer(file, lineterminator="\n")
            tables[name].writerow(columns[name])
        total = len(sides.first)
        bar = stack.enter_context(
            progress_bar(total=total, desc="comparing", unit="image", disable=not progress or found.pairs == 1)
        )
        for block in similarity_blocks(embeddings, sides):
            counted = sides.counted(block.rows)
            found.pairs += int(counted.sum())
            if threshold is not None:
                found.accepted += int((counted & (block.values >= threshold)).sum())
            most, least = extreme_pairs(block, sides, _SHOWN)
            found.most_similar = keep_extremes(found.most_similar, most, _SHOWN, falling=True)
            found.least_similar = keep_extremes(found.least_similar, least, _SHOWN, falling=False)
            for matches in best_matches(block, sides, best):
                found.best += matches[:1]
                if "best" in tables:
                    tables["best"].writerows(
                        (names[0][match.first], rank, names[1][match.second], f"{match.similarity:.6f}",
                         answers[found.decide(match.similarity)])
                        for rank, match in enumerate(matches, start=1)
                    )  # fmt: skip
            if "pairs" in tables:
                for place, row, mask in zip(range(total)[block.rows], block.values, counted, strict=True):
                    tables["pairs"].writerows(
                        (names[0][place], names[1][column], f"{row[column]:.6f}", answers[found.decide(row[column])])
                        for column in np.flatnonzero(mask)
                    )
            bar.update(block.rows.stop - block.rows.start)
    return found


def draw_comparison(
    path: Path,
    found: Comparison,
    sides: ImageSides,
    pipeline: RecognitionPipeline,
    landmarks: Landmarks | None = None,
    device: torch.device | str = "cpu",
    note: str = "",
) -> None:
    """`verify.png`: crops as the model sees them.

    Args:
        landmarks: of `sides.images`, known ones.
        note: where the threshold is from, for the title.

    Raises:
        OSError: it cannot be written.
    """
    views: dict[int, ModelView] = {}

    def view(index: int) -> ModelView:
        if index not in views:
            points = None if landmarks is None or not landmarks.found[index] else landmarks.points[index]
            views[index] = model_view(pipeline, sides.images, index, points, device)
        return views[index]

    def panel(match: Match) -> PairPanel:
        two = [view(int(sides.first[match.first])), view(int(sides.second[match.second]))]
        points = [np.full((5, 2), np.nan) if each.keypoints is None else each.keypoints for each in two]
        return PairPanel(
            crops=np.stack([each.pixels for each in two]),
            landmarks=None if all(each.keypoints is None for each in two) else np.stack(points),
            names=(sides.names[0][match.first], sides.names[1][match.second]),
            similarity=match.similarity,
            same=found.decide(match.similarity),
        )

    if found.pairs == 1:
        groups = {"": [panel(found.most_similar[0])]}
    else:
        most = found.most_similar[: (found.pairs + 1) // 2]
        least = [match for match in found.least_similar if match not in most]
        groups = {"most similar": [panel(match) for match in most], "least similar": [panel(match) for match in least]}
    draw_pairs(path, groups, note)


def write_record(path: Path, content: Mapping[str, Any], found: Comparison, sides: ImageSides) -> None:
    """`verify.json`."""
    result: dict[str, Any] = {"pairs": found.pairs}
    if found.threshold is not None:
        result["accepted"] = found.accepted
    if found.pairs == 1:
        match = found.most_similar[0]
        result = {
            "images": [sides.names[0][match.first], sides.names[1][match.second]],
            "similarity": match.similarity,
            "same": found.decide(match.similarity),
        }
    write_text(path, json.dumps({**content, "result": result}, indent=1) + "\n")


def best_table(found: Comparison, sides: ImageSides, most: int) -> Sequence[str]:
    """A line for the best match of each image, as many as are asked for."""
    verdicts = {True: "  same person", False: "  different persons", None: ""}
    width = max((len(sides.names[0][match.first]) for match in found.best[:most]), default=0)
    return [
        f"{sides.names[0][match.first]:<{width}}  {match.similarity:7.4f}  {sides.names[1][match.second]}"
        f"{verdicts[found.decide(match.similarity)]}"
        for match in found.best[:most]
    ]
