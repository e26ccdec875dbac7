"""The landmark network of the differentiable face aligner (DFA).

Source: "KeyPoint Relative Position Encoding for Face Recognition", CVPR 2024, supplementary 3; layers as in
mk-minchul/CVLface@d3d09c9 (aligners/differentiable_face_aligner), which follows RetinaFace
(https://arxiv.org/abs/1905.00641). A box, face logits and landmarks are predicted at each of A anchors; a small
MLP-Mixer over all of them gives each a weight, and the weighted mean is the one answer, so that gradients pass where
the suppression of overlapping boxes would stop them.
Deliberate differences: RGB, not BGR; the heads of a level are one convolution, in the order of what is aggregated; the
anchors are part of the network; other parameter names (`face.dfa.cvlface` translates); images that are not square.
Coordinates: (x, y) as fractions of the image, x right and y down.
Shape letters: B batch, C channels, A anchors.
"""

import copy
from dataclasses import dataclass
from typing import Literal, NamedTuple

import timm
import torch
from torch import Tensor, nn

from common.vit import under_autocast
from face.dfa.anchors import ANCHOR_SIZES, STRIDES, decode_boxes, decode_landmarks, make_anchors
from face.dfa.layers import Context, FeaturePyramid, Mixer, MobileNet, fold_norms, initialise
from face.models.base import WeightsOrigin, check_images

__all__ = ["DFANetwork", "DFAOutput", "DFAPrediction", "DFASettings"]

_VALUES = (4, 2, 10)  # of an anchor: box, logits, landmarks


@dataclass(frozen=True, kw_only=True)
class DFASettings:
    """A DFA network."""

    body: Literal["mobilenet0.25", "resnet50"] = "mobilenet0.25"
    """What makes the features: a MobileNet v1 of a quarter of its width, or a ResNet-50."""

    image_hw: tuple[int, int] = (160, 160)
    """(rows, cols) of the images in pixels."""

    aggregator: bool = True
    """Whether the anchors' predictions are merged into one by a network of their own."""

    anchor_sizes: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]] = ANCHOR_SIZES
    """Sides in pixels of the square anchors, of cells of 8, 16 and 32 pixels; as many for each."""

    def __post_init__(self) -> None:
        if self.body not in ("mobilenet0.25", "resnet50"):
            raise ValueError(f"body must be mobilenet0.25 or resnet50, got {self.body!r}")
        if min(self.image_hw) < 1:
            raise ValueError(f"image_hw must be >= 1, got {self.image_hw}")
        counts = {len(sizes) for sizes in self.anchor_sizes}
        if len(self.anchor_sizes) != len(STRIDES) or len(counts) != 1 or counts == {0}:
            raise ValueError(f"anchor_sizes must be {len(STRIDES)} levels of as many sizes, got {self.anchor_sizes}")
        if min(size for sizes in self.anchor_sizes for size in sizes) < 1:
            raise ValueError(f"anchor_sizes must be >= 1, got {self.anchor_sizes}")


class DFAOutput(NamedTuple):
    """What is predicted at all anchors, and what is made of it. Without an aggregator the last four are None."""

    box_offsets: Tensor
    """[B, A, 4], see `face.dfa.anchors`."""

    logits: Tensor
    """[B, A, 2]: background, face."""

    landmark_offsets: Tensor
    """[B, A, 10]."""

    boxes: Tensor | None
    """[B, 4] (left, top, right, bottom), fractions of the image."""

    face_logits: Tensor | None
    """[B, 2]: background, face."""

    landmarks: Tensor | None
    """[B, 5, 2], (x, y) as fractions of the image."""

    weights: Tensor | None
    """[B, A], how far each anchor counts; they sum to 1."""


class DFAPrediction(NamedTuple):
    """The face of each image."""

    landmarks: Tensor
    """[B, 5, 2], (x, y) as fractions of the image."""

    score: Tensor
    """[B] in [0, 1], how sure it is that there is a face."""

    boxes: Tensor
    """[B, 4] (left, top, right, bottom), fractions of the image."""


class DFANetwork(nn.Module):
    """Face images to one face each.

    Args:
        settings: of the network.
    """

    anchors: Tensor
    """[A, 4], see `face.dfa.anchors`."""

    origin: WeightsOrigin | None = None
    """Set by `face.dfa.load_dfa`."""

    inference_only: bool = False
    """Whether this is a copy that `for_inference` made."""

    def __init__(self, settings: DFASettings) -> None:
        super().__init__()
        self.settings = settings
        self.image_hw = settings.image_hw
        self.register_buffer(
            "anchors", make_anchors(settings.image_hw, STRIDES, settings.anchor_sizes), persistent=False
        )
        if settings.body == "resnet50":
            self.body: nn.Module = timm.create_model("resnet50", features_only=True, out_indices=(2, 3, 4))
            widths, channels, slope = (512, 1024, 2048), 256, 0.0
        else:
            self.body = MobileNet()
            initialise(self.body)
            widths, channels, slope = MobileNet.channels, 64, 0.1
        self.pyramid = FeaturePyramid(widths, channels, slope)
        self.contexts = nn.ModuleList(Context(channels, slope) for _ in STRIDES)
        for part in (self.pyramid, self.contexts):
            initialise(part)
        self.heads = nn.ModuleList(nn.Conv2d(channels, len(sizes) * sum(_VALUES), 1) for sizes in settings.anchor_sizes)
        initialise(self.heads, std=0.01)  # at first every anchor predicts itself
        self.aggregator: nn.Module | None = None
        if settings.aggregator:
            mixers = nn.Sequential(*[Mixer(sum(_VALUES), len(self.anchors)) for _ in range(3)])
            last = nn.Linear(sum(_VALUES), 1)
            initialise(mixers)
            initialise(last, std=0.02)  # at first all anchors count nearly the same
            self.aggregator = nn.Sequential(*mixers, last)

    def forward(self, images: Tensor) -> DFAOutput:
        """Predictions at all anchors, and aggregated.

        Args:
            images: [B, 3, *image_hw], RGB in [-1, 1].

        Raises:
            ValueError: images of another shape.
        """
        values = self._at_anchors(images)
        offsets, class_logits, landmark_offsets = values.split(_VALUES, dim=-1)
        if self.aggregator is None:
            return DFAOutput(offsets, class_logits, landmark_offsets, None, None, None, None)
        boxes, logits, landmarks, weights = self._merged(values, self.aggregator)
        return DFAOutput(offsets, class_logits, landmark_offsets, boxes, logits, landmarks, weights)

    def predict(self, images: Tensor, aggregate: bool = True) -> DFAPrediction:
        """The face of each image.

        Args:
            images: [B, 3, *image_hw], RGB in [-1, 1].
            aggregate: the weighted mean of all anchors; False: the anchor of the highest face score, which is what
                suppressing overlapping boxes leaves of one face.

        Raises:
            ValueError: images of another shape, or `aggregate` of a network without an aggregator.
        """
        if aggregate and self.aggregator is None:
            raise ValueError("this network has no aggregator: predict with aggregate=False, or train one that has")
        values = self._at_anchors(images)
        if aggregate and self.aggregator is not None:
            boxes, logits, landmarks, _ = self._merged(values, self.aggregator)
        else:
            best = (values[..., 5] - values[..., 4]).argmax(dim=-1)
            chosen = values.gather(1, best[:, None, None].expand(-1, 1, values.shape[-1]))
            offsets, logits, landmark_offsets = chosen.split(_VALUES, dim=-1)
            anchors = self.anchors[best][:, None]
            boxes = decode_boxes(offsets, anchors)[:, 0]
            landmarks = decode_landmarks(landmark_offsets, anchors)[:, 0]
            logits = logits[:, 0]
        return DFAPrediction(landmarks, logits.softmax(dim=-1)[:, 1], boxes)

    def for_inference(self) -> "DFANetwork":
        """A frozen copy with the same outputs in evaluation, which runs faster and is neither trained nor saved.

        Norms are folded into convolutions, and features lie in memory with their channels last.
        """
        network = copy.deepcopy(self).eval().requires_grad_(False)
        if not self.inference_only:
            fold_norms(network)
            network = network.to(memory_format=torch.channels_last)
            network.inference_only = True
        return network

    def train(self, mode: bool = True) -> "DFANetwork":
        """As of every module, but a copy of `for_inference` stays in evaluation, whatever it is part of."""
        return super().train(mode and not self.inference_only)

    def _at_anchors(self, images: Tensor) -> Tensor:
        """[B, A, 16] in float32 or above: offsets of the box, logits, offsets of the landmarks."""
        check_images(images, self.image_hw)
        if self.inference_only:
            images = images.contiguous(memory_format=torch.channels_last)
        features = self.pyramid(self.body(images))
        levels = [
            head(context(x)).permute(0, 2, 3, 1).reshape(x.shape[0], x.shape[2] * x.shape[3] * len(sizes), sum(_VALUES))
            for head, context, x, sizes in zip(
                self.heads, self.contexts, features, self.settings.anchor_sizes, strict=True
            )
        ]
        values = torch.cat(levels, dim=1)
        return values.float() if under_autocast(values) else values

    def _merged(self, values: Tensor, aggregator: nn.Module) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """From [B, A, 16] the boxes [B, 4], logits [B, 2] and landmarks [B, 5, 2], and the anchors' weights [B, A]."""
        if under_autocast(values):
            with torch.autocast(values.device.type, enabled=False):
                return self._merged(values, aggregator)
        offsets, logits, landmark_offsets = values.split(_VALUES, dim=-1)
        boxes = decode_boxes(offsets, self.anchors)
        landmarks = decode_landmarks(landmark_offsets, self.anchors).flatten(-2)
        tokens = torch.cat([boxes, logits, landmarks], dim=-1)
        weights = aggregator(tokens).squeeze(-1).softmax(dim=-1)
        boxes, logits, landmarks = torch.einsum("ba,bac->bc", weights, tokens).split(_VALUES, dim=-1)
        return boxes, logits, landmarks.unflatten(-1, (5, 2)), weights
