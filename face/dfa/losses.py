"""The loss that the DFA network is trained with: every anchor as in a face detector, and the aggregated face.

Source: SSD (https://arxiv.org/abs/1512.02325) and RetinaFace (https://arxiv.org/abs/1905.00641) as
biubug6/Pytorch_Retinaface trains it, whose numbers (overlaps, negatives, weight of the boxes) are the defaults; the
aggregated terms are those of mk-minchul/CVLface@d3d09c9 (dfa/layers/modules/multibox_loss.py). Neither that code nor
the paper gives these a weight.
Deliberate differences: no loop over images, and any device; terms that nothing in a batch contributes to are 0 (theirs
are NaN for batches without landmarks); boxes and landmarks that are unknown may hold anything, NaN too.

An image has one face at most. Its anchors are positive where they overlap the face enough, the best one always; boxes
and landmarks are learnt there. Whether there is a face is learnt at the positive anchors and the hardest of the others.
Images without a positive anchor teach the anchors nothing. As many processes as share a run, each divides by the counts
of its own batch.

Coordinates: fractions of the image, boxes as (left, top, right, bottom).
Shape letters: B images, A anchors.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from face.dfa.anchors import encode_boxes, encode_landmarks
from face.dfa.network import DFAOutput

__all__ = ["DFALoss", "DFALossSettings", "DFALosses", "anchor_overlaps"]


@dataclass(frozen=True, kw_only=True)
class DFALossSettings:
    """Which anchors learn what, and how far each term counts."""

    positive_overlap: float = 0.35
    """Intersection over union of anchor and face from which the anchor is positive."""

    least_overlap: float = 0.2
    """A face that no anchor overlaps so far is passed over by all anchors."""

    negatives_per_positive: int = 7
    """Anchors of an image, those that are taken for a face the most, that learn not to be one."""

    unannotated_face_score: float = 0.0
    """Face score that the aggregated prediction is to have for a face without landmarks, in [0, 1]. Faces without are
    mostly the unrecognisable ones: 0, the authors' choice, makes of the score a measure of quality (the paper's
    supplementary 4 weights the frames of a video by it), 1 that of a detector."""

    box_weight: float = 2.0
    """Of the anchors' boxes."""

    face_weight: float = 1.0
    """Of the anchors' face scores."""

    landmark_weight: float = 1.0
    """Of the anchors' landmarks."""

    aggregated_box_weight: float = 1.0
    """Of the aggregated box."""

    aggregated_face_weight: float = 1.0
    """Of the aggregated face score."""

    aggregated_landmark_weight: float = 1.0
    """Of the aggregated landmarks."""

    def __post_init__(self) -> None:
        if not 0 < self.least_overlap <= 1 or not 0 < self.positive_overlap <= 1:
            raise ValueError(
                "positive_overlap and least_overlap must be within (0, 1], "
                f"got {self.positive_overlap} and {self.least_overlap}"
            )
        if self.negatives_per_positive < 0:
            raise ValueError(f"negatives_per_positive must be >= 0, got {self.negatives_per_positive}")
        if not 0 <= self.unannotated_face_score <= 1:
            raise ValueError(f"unannotated_face_score must be within [0, 1], got {self.unannotated_face_score}")
        weights = {name: value for name, value in vars(self).items() if name.endswith("_weight")}
        for name, value in weights.items():
            if not (value >= 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be >= 0 and finite, got {value}")
        if not any(weights.values()):
            raise ValueError(f"one of {', '.join(weights)} must be above 0")


class DFALosses(NamedTuple):
    """Terms of a batch, [] each, without their weights; those of a missing aggregator are 0."""

    box: Tensor
    """Smooth L1 of the offsets of the positive anchors' boxes; a sum over coordinates, a mean over anchors."""

    face: Tensor
    """Cross-entropy of positive and hard negative anchors; a sum, divided by the number of positive ones."""

    landmarks: Tensor
    """Smooth L1 of the offsets of landmarks, over the positive anchors of faces that have some."""

    aggregated_box: Tensor
    """Smooth L1 of boxes in fractions of the image; a sum over coordinates, a mean over faces."""

    aggregated_face: Tensor
    """Cross-entropy, a mean over images."""

    aggregated_landmarks: Tensor
    """Smooth L1 of landmarks in fractions of the image; a sum over coordinates, a mean over faces that have some."""

    total: Tensor
    """Weighted sum of all."""


class DFALoss(nn.Module):
    """Compares a network's predictions with the face of each image; float32 also under autocast.

    Args:
        settings: of the terms.
    """

    def __init__(self, settings: DFALossSettings | None = None) -> None:
        super().__init__()
        self.settings = settings or DFALossSettings()

    def forward(self, output: DFAOutput, anchors: Tensor, boxes: Tensor, landmarks: Tensor, kinds: Tensor) -> DFALosses:
        """Terms of a batch.

        Args:
            output: of the network.
            anchors: [A, 4] (cx, cy, w, h) fractions, `DFANetwork.anchors`.
            boxes: [B, 4] fractions; looked at where there is a face.
            landmarks: [B, 5, 2] fractions; looked at where kind is 1.
            kinds: [B] int64: 1 a face with landmarks, -1 one without, 0 no face. Values are not inspected, that would
                stall a GPU.

        Raises:
            ValueError: shapes that do not fit each other.
        """
        _check(output, anchors, boxes, landmarks, kinds)
        with torch.autocast(output.logits.device.type, enabled=False):
            return self._terms(output, anchors, boxes, landmarks, kinds)

    def _terms(self, output: DFAOutput, anchors: Tensor, boxes: Tensor, landmarks: Tensor, kinds: Tensor) -> DFALosses:
        settings = self.settings
        boxes, landmarks = _at_least_float32(boxes), _at_least_float32(landmarks)
        is_face, has_landmarks = kinds != 0, kinds > 0
        with torch.no_grad():
            positive = self._positive_anchors(anchors, boxes, is_face)
            box_targets = encode_boxes(boxes[:, None], anchors)
            landmark_targets = encode_landmarks(landmarks[:, None], anchors)
        box = _smooth_l1(output.box_offsets, box_targets, positive)
        face = self._face_term(_at_least_float32(output.logits), positive)
        points = _smooth_l1(output.landmark_offsets, landmark_targets, positive & has_landmarks[:, None])
        total = settings.box_weight * box + settings.face_weight * face + settings.landmark_weight * points
        if output.boxes is None or output.face_logits is None or output.landmarks is None:
            zero = torch.zeros_like(total)
            return DFALosses(box, face, points, zero, zero, zero, total)
        merged_box = _smooth_l1(output.boxes, boxes, is_face)
        merged_face = self._aggregated_face_term(_at_least_float32(output.face_logits), is_face, has_landmarks)
        merged_points = _smooth_l1(output.landmarks.flatten(1), landmarks.flatten(1), has_landmarks)
        total = (
            total
            + settings.aggregated_box_weight * merged_box
            + settings.aggregated_face_weight * merged_face
            + settings.aggregated_landmark_weight * merged_points
        )
        return DFALosses(box, face, points, merged_box, merged_face, merged_points, total)

    def _positive_anchors(self, anchors: Tensor, boxes: Tensor, is_face: Tensor) -> Tensor:
        """[B, A] bool."""
        overlaps = anchor_overlaps(anchors, boxes)
        best, place = overlaps.max(dim=1, keepdim=True)
        positive = (overlaps >= self.settings.positive_overlap).scatter(1, place, True)
        return positive & (best >= self.settings.least_overlap) & is_face[:, None]

    def _face_term(self, logits: Tensor, positive: Tensor) -> Tensor:
        """Of [B, A, 2] logits."""
        of_background, of_face = (-logits.log_softmax(-1)).unbind(-1)
        with torch.no_grad():
            wanted = self.settings.negatives_per_positive * positive.sum(1, keepdim=True)
            # Cross-entropies are not negative: the positive anchors come last.
            order = of_background.masked_fill(positive, -1).argsort(dim=1, descending=True)
            among_hardest = torch.arange(positive.shape[1], device=order.device) < wanted
            negative = torch.zeros_like(positive).scatter(1, order, among_hardest) & ~positive
        return (_sum_of(of_face, positive) + _sum_of(of_background, negative)) / positive.sum().clamp(min=1)

    def _aggregated_face_term(self, logits: Tensor, is_face: Tensor, has_landmarks: Tensor) -> Tensor:
        """Of [B, 2] logits."""
        of_background, of_face = (-logits.log_softmax(-1)).unbind(-1)
        unannotated = is_face.to(logits) * self.settings.unannotated_face_score
        score = torch.where(has_landmarks, 1.0, unannotated)
        return (score * of_face + (1 - score) * of_background).mean()


def anchor_overlaps(anchors: Tensor, boxes: Tensor) -> Tensor:
    """Intersection over union of anchors [A, 4] (cx, cy, w, h) and boxes [B, 4] (left, top, right, bottom): [B, A]."""
    half = anchors[:, 2:] / 2
    begin, end = anchors[:, :2] - half, anchors[:, :2] + half
    boxes = boxes[:, None]
    shared = (torch.minimum(end, boxes[..., 2:]) - torch.maximum(begin, boxes[..., :2])).clamp(min=0).prod(-1)
    together = (end - begin).prod(-1) + (boxes[..., 2:] - boxes[..., :2]).prod(-1) - shared
    return shared / together


def _smooth_l1(predicted: Tensor, targets: Tensor, chosen: Tensor) -> Tensor:
    """Of [..., K] values, those of the chosen [...]: a sum over K, a mean over the chosen, 0 without any.

    What is not chosen may be NaN in `targets`: it is taken out of the difference, whose gradient is not multiplied.
    """
    difference = torch.where(chosen[..., None], predicted - targets, 0.0)
    return F.smooth_l1_loss(difference, torch.zeros_like(difference), reduction="sum") / chosen.sum().clamp(min=1)


def _sum_of(values: Tensor, chosen: Tensor) -> Tensor:
    return torch.where(chosen, values, 0.0).sum()


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _check(output: DFAOutput, anchors: Tensor, boxes: Tensor, landmarks: Tensor, kinds: Tensor) -> None:
    batch, count = output.logits.shape[:2]
    expected = {
        "output.box_offsets": (output.box_offsets, (batch, count, 4)),
        "output.logits": (output.logits, (batch, count, 2)),
        "output.landmark_offsets": (output.landmark_offsets, (batch, count, 10)),
        "anchors": (anchors, (count, 4)),
        "boxes": (boxes, (batch, 4)),
        "landmarks": (landmarks, (batch, 5, 2)),
        "kinds": (kinds, (batch,)),
    }
    for name, (value, shape) in expected.items():
        if value.shape != shape:
            raise ValueError(f"{name} must have shape {list(shape)}, got {list(value.shape)}")
    if not batch:
        raise ValueError("the batch has no images")
    if kinds.is_floating_point():
        raise ValueError(f"kinds must be integers, got {kinds.dtype}")
