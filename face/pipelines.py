"""Recognition pipelines: from a face as it comes to an embedding, on three ways.

* given: landmarks are given with the image, or none are needed;
* dfa: the face aligner finds the landmarks, the recognition model gets the image as it is;
* dfa_aligned: the image is aligned by these landmarks first, and they are carried along.

Source: Kim et al., "KeyPoint Relative Position Encoding for Face Recognition", CVPR 2024, supplementary 7 and Figure
11; InferModel-, InferAlignerKeypointModel- and InferAlignerModelPipeline of mk-minchul/CVLface@d3d09c9.
Deliberate differences: the flip test mirrors what the recognition model gets, image and landmarks (the authors find
landmarks anew in the mirrored image, so that the two halves differ by more than the mirror); images may be of any size
and need not be square; a face whose landmarks give no alignment is marked instead of aligned by chance.

Coordinates: keypoints and landmarks are (x, y) as fractions of the image that they belong to.
Shape letters: B batch, h x w pixels of the images, E embedding channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.keypoints import FIVE_POINT_FACE, flip_keypoints
from face.models.base import FaceModel
from face.reference import reference_landmarks

if TYPE_CHECKING:
    from face.dfa.aligner import AlignedFaces, FaceAligner

__all__ = [
    "ModelInputs",
    "PipelineKind",
    "PipelineSettings",
    "Recognition",
    "RecognitionPipeline",
    "join_inputs",
    "make_pipeline",
    "reduced_size",
]

PipelineKind = Literal["given", "dfa", "dfa_aligned"]


@dataclass(frozen=True, kw_only=True)
class PipelineSettings:
    """How faces reach a recognition model."""

    kind: PipelineKind = "given"
    """given: with landmarks from a table, where the model needs some; dfa: with landmarks that the aligner finds;
    dfa_aligned: aligned by those."""

    aligner: str | None = None
    """Weights of the aligner: whatever `face.dfa.load_aligner` takes. Needed by the two kinds with dfa alone."""

    padding_ratio: float = 0.0
    """Rim that is put around an image before the aligner looks at it, as a share of its longer side. CVLface has 0.215
    for tight crops where it makes tables of landmarks, and 0 in its pipelines."""

    source_size: int = 224
    """Images whose longer side is above this are reduced to it (aspect kept) before anything else; smaller ones stay
    what they are. Alignment samples these pixels."""

    def __post_init__(self) -> None:
        wrong = []
        if self.kind != "given" and not self.aligner:
            wrong.append(f"kind {self.kind} needs aligner, the weights of a face aligner")
        if self.kind == "given" and self.aligner:
            wrong.append(f"kind given has no use for an aligner, got {self.aligner}; set kind to dfa or dfa_aligned")
        if not 0 <= self.padding_ratio < 2:
            wrong.append(f"padding_ratio must be from 0 to below 2, got {self.padding_ratio}")
        if self.source_size < 16:
            wrong.append(f"source_size must be >= 16 pixels, got {self.source_size}")
        if wrong:
            raise ValueError("; ".join(wrong))


class ModelInputs(NamedTuple):
    """What a recognition model gets of a batch, and what the aligner found."""

    images: Tensor
    """[B, 3, *model.image_hw], RGB in [-1, 1]: as it came or aligned."""

    keypoints: Tensor | None
    """[B, 5, 2] fractions of `images`; None for a model that needs none."""

    visibility: Tensor | None
    """[B, 5]; None where all keypoints count."""

    landmarks: Tensor | None
    """[B, 5, 2] that the aligner found, fractions of the input; None for kind given."""

    score: Tensor | None
    """[B] in [0, 1], how sure the aligner is of a face; None for kind given."""

    valid: Tensor | None
    """[B] bool, False where the landmarks give no alignment: the model then gets the image as it came, and its
    keypoints are hidden. None for kind given."""


class Recognition(NamedTuple):
    """Embeddings and what they were made of."""

    embeddings: Tensor
    """[B, E], not normalised."""

    inputs: ModelInputs


class RecognitionPipeline(nn.Module):
    """A recognition model with what comes before it. Differentiable where its parts are.

    Args:
        model: see `FaceModel`.
        kind: see `PipelineSettings`.
        aligner: for the two kinds with dfa; its images must be of the model's size for dfa_aligned.
        source_size: see `PipelineSettings`; for those who load images.

    Raises:
        ValueError: an unknown kind, an aligner that is missing or not used, or one of another size.
    """

    _template: Tensor

    def __init__(
        self,
        model: FaceModel,
        kind: PipelineKind = "given",
        aligner: "FaceAligner | None" = None,
        source_size: int = PipelineSettings.source_size,
    ) -> None:
        super().__init__()
        if kind not in ("given", "dfa", "dfa_aligned"):
            raise ValueError(f"kind must be given, dfa or dfa_aligned, got {kind!r}")
        if (aligner is None) != (kind == "given"):
            raise ValueError(f"kind {kind} {'needs an aligner' if aligner is None else 'has no use for an aligner'}")
        if aligner is not None and kind == "dfa_aligned" and tuple(aligner.settings.out_hw) != tuple(model.image_hw):
            raise ValueError(
                f"the aligner makes images of {tuple(aligner.settings.out_hw)}, the model takes {tuple(model.image_hw)}"
            )
        self.model, self.aligner = model, aligner
        self.kind: PipelineKind = kind
        self.image_hw: tuple[int, int] = (model.image_hw[0], model.image_hw[1])
        self.needs_keypoints = kind == "given" and model.needs_keypoints
        """Whether keypoints must be given."""
        self.source_size = source_size
        template = torch.tensor(reference_landmarks(self.image_hw, pixels=False), dtype=torch.float32)
        self.register_buffer("_template", template, persistent=False)

    def forward(self, images: Tensor, keypoints: Tensor | None = None, visibility: Tensor | None = None) -> Tensor:
        """Embeddings of a batch, not normalised.

        Args:
            images: [B, 3, h, w] RGB in [-1, 1], of any size.
            keypoints: [B, 5, 2] fractions of `images`, for kind given; the others find their own.
            visibility: [B, 5] in [0, 1] of those; None: all count fully.

        Returns:
            [B, E].

        Raises:
            ValueError: images of another shape, or no keypoints where they are needed.
        """
        return self.embed(self.prepare(images, keypoints, visibility))

    def recognise(
        self,
        images: Tensor,
        keypoints: Tensor | None = None,
        visibility: Tensor | None = None,
        flip_test: bool = False,
    ) -> Recognition:
        """The same, with what the model got and the aligner found; `flip_test`: see `embed`."""
        inputs = self.prepare(images, keypoints, visibility)
        return Recognition(self.embed(inputs, flip_test), inputs)

    def find(self, groups: Sequence[Tensor]) -> "list[AlignedFaces] | None":
        """What the aligner finds in images of several sizes, its network being run once; None without an aligner.

        Args:
            groups: [b, 3, h, w] each, RGB in [-1, 1].
        """
        if self.aligner is None:
            return None
        device = groups[0].device.type if groups else "cpu"
        with torch.autocast(device, enabled=False):  # half precision would move landmarks by up to half a pixel
            return self.aligner.align_groups([images.float() for images in groups])

    def prepare(
        self,
        images: Tensor,
        keypoints: Tensor | None = None,
        visibility: Tensor | None = None,
        faces: "AlignedFaces | None" = None,
    ) -> ModelInputs:
        """What comes before the model; arguments and errors are those of `forward`.

        `faces` is what `find` found in the images; None lets the aligner look for it.
        """
        if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
            raise ValueError(f"images must have shape [B, 3, h, w], none of them 0, got {list(images.shape)}")
        if self.aligner is None:
            if not self.model.needs_keypoints:
                keypoints = visibility = None
            elif keypoints is None:
                raise ValueError("the model needs keypoints, and the pipeline has no aligner to find them (kind given)")
            return ModelInputs(self._resized(images), keypoints, visibility, None, None, None)
        found = faces
        if found is None:
            with torch.autocast(images.device.type, enabled=False):  # as in `find`
                found = self.aligner(images.float())
        visible = found.valid
        inputs, points = self._resized(images), found.landmarks
        if self.kind == "dfa_aligned":
            inputs = torch.where(visible[:, None, None, None], found.images, inputs)
            points = found.aligned_landmarks
        keypoints = visibility = None
        if self.model.needs_keypoints:
            # Degenerate landmarks may be anything, NaN too, which a visibility of 0 would not take away.
            keypoints = torch.where(visible[:, None, None], points, self._template.to(points.device))
            if not bool(visible.all()):
                visibility = visible[:, None].to(points.dtype).expand(-1, len(FIVE_POINT_FACE))
        return ModelInputs(inputs, keypoints, visibility, found.landmarks, found.score, visible)

    def embed(self, inputs: ModelInputs, flip_test: bool = False) -> Tensor:
        """The model's part: [B, E].

        Args:
            inputs: from `prepare`.
            flip_test: whether the embedding of the mirror is added, in float32: of `inputs.images` mirrored, with the
                keypoints mirrored along.
        """
        images, points, visibility = inputs.images, inputs.keypoints, inputs.visibility
        embeddings = self._call(images, points, visibility)
        if not flip_test:
            return embeddings
        if points is not None:
            points = flip_keypoints(points, FIVE_POINT_FACE)
        if visibility is not None:
            visibility = visibility[:, FIVE_POINT_FACE.flip_order]
        return embeddings.float() + self._call(images.flip(-1), points, visibility).float()

    def _call(self, images: Tensor, keypoints: Tensor | None, visibility: Tensor | None) -> Tensor:
        return self.model(images) if keypoints is None else self.model(images, keypoints, visibility)

    def _resized(self, images: Tensor) -> Tensor:
        """To the model's size, height and width each on their own: fractions stay what they are."""
        if tuple(images.shape[-2:]) == self.image_hw:
            return images
        return F.interpolate(images, self.image_hw, mode="bilinear", antialias=True).clamp(-1, 1)


def join_inputs(parts: Sequence[ModelInputs]) -> ModelInputs:
    """Batches of one pipeline as one, those of images of several sizes for example."""
    if len(parts) == 1:
        return parts[0]

    def joined(tensors: list[Tensor | None]) -> Tensor | None:
        known = [tensor for tensor in tensors if tensor is not None]
        return torch.cat(known) if known else None

    visibility = [part.visibility for part in parts]
    if any(each is not None for each in visibility):  # a part without has only keypoints that are to be seen
        visibility = [
            torch.ones_like(part.keypoints[..., 0]) if each is None and part.keypoints is not None else each
            for each, part in zip(visibility, parts, strict=True)
        ]
    return ModelInputs(
        torch.cat([part.images for part in parts]),
        joined([part.keypoints for part in parts]),
        joined(visibility),
        joined([part.landmarks for part in parts]),
        joined([part.score for part in parts]),
        joined([part.valid for part in parts]),
    )


def reduced_size(size_hw: tuple[int, int], longest: int) -> tuple[int, int]:
    """(height, width) of an image whose longer side is to be `longest` at most, its aspect kept."""
    scale = longest / max(size_hw)
    return size_hw if scale >= 1 else (max(1, round(size_hw[0] * scale)), max(1, round(size_hw[1] * scale)))


def make_pipeline(
    model: FaceModel, settings: PipelineSettings, device: torch.device | str = "cpu"
) -> RecognitionPipeline:
    """A pipeline with its aligner read from the file that the settings name.

    Args:
        model: on `device`; the pipeline has the model itself, no copy, so it sees the weights that training gives it.
        settings: which pipeline.
        device: for the aligner.

    Raises:
        OSError, ValueError: there is no such aligner, or what there is, is none; see `face.dfa.load_aligner`.
    """
    if settings.kind == "given":
        return RecognitionPipeline(model, source_size=settings.source_size)
    from face.dfa.aligner import AlignerSettings, load_aligner

    assert settings.aligner is not None
    how = AlignerSettings(out_hw=(model.image_hw[0], model.image_hw[1]), padding_ratio=settings.padding_ratio)
    aligner = load_aligner(settings.aligner, how, device=device)
    return RecognitionPipeline(model, settings.kind, aligner, settings.source_size)
