"""Face images aligned by their landmarks, in torch: in batches, on any device, differentiable.

The least-squares similarity from the landmarks to the places where an aligned face has them (`face.reference`), in
closed form, then one bilinear interpolation. It is what insightface@7fadd42 (python-package, utils/face_align.py,
norm_crop) does an image at a time with scikit-image's SimilarityTransform and cv2.warpAffine, and its pixels are the
same. Written anew. Deliberate differences: gradients reach images and landmarks; crops of any height and width; a flag
where landmarks have no similarity. The KP-RPE authors' aligner (mk-minchul/CVLface@d3d09c9,
differentiable_face_aligner) takes its similarity off the tape, one image after the other, and divides pixels by sizes,
which is half a pixel off and which `align_corners=True` reproduces.

Coordinates: (x, y), x right and y down. Landmarks are fractions of the image they belong to: its corners are (0, 0) and
(1, 1), the centre of pixel i is (i + 0.5) / size. With `align_corners=True` the centre of pixel i is instead
i / (size - 1): the corners are the outermost pixels' centres. A similarity is one of lengths in pixels, so both sizes
count. Matrices act on pixel-index coordinates, the centre of the first pixel being (0, 0), as those of OpenCV do.
Shape letters: B images, L landmarks (5), H and W rows and columns of the aligned image.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from common.geometry import fit_similarity
from face.reference import REFERENCE_SIZE, reference_landmarks

__all__ = ["Alignment", "align_faces", "warp_images"]

_LARGER = 4  # times the pixels of the result: images that are not passed over as a whole
_OUT_OF_SIGHT = [[1.0, 0.0, 1e6], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]


class Alignment(NamedTuple):
    """Aligned faces."""

    images: Tensor
    """[B, C, H, W] in the dtype of the images given."""

    landmarks: Tensor
    """[B, L, 2], fractions of the aligned image."""

    matrix: Tensor
    """[B, 3, 3] from pixel-index coordinates of the image given to those of the aligned one."""

    valid: Tensor
    """[B], False where there is no similarity."""


def align_faces(
    images: Tensor,
    landmarks: Tensor,
    out_hw: tuple[int, int] = (REFERENCE_SIZE, REFERENCE_SIZE),
    *,
    reference: Tensor | None = None,
    fill: float = -1.0,
    align_corners: bool = False,
    supersample: int = 1,
) -> Alignment:
    """Move, turn and scale each image so that its landmarks come as close to the reference as they can.

    There is no similarity where the landmarks are one point or so near that rounding tells no difference, where all lie
    on a line (and those of the reference do not: such a fit is no face's), where one is NaN, infinite or beyond 1e9
    pixels, or where the best fit shrinks the face to a point. Such an image is resized to `out_hw` as a whole and its
    landmarks are left as they are; `valid` is False there, and no gradient reaches its landmarks. All else is done as
    the landmarks say: a face upside down is turned upright; where landmarks are within a hundredth of a pixel, the crop
    is one pixel 4000 times enlarged, of nearly one colour, and gradients are as large; where they lie outside of the
    image, the crop is all `fill`.

    Args:
        images: [B, C, h, w] floating point.
        landmarks: [B, L, 2] fractions of the image.
        out_hw: (rows, cols) of the aligned images.
        reference: [L, 2] or [B, L, 2], where the landmarks should be, as fractions of the aligned image; None for the
            template of `face.reference`, of five.
        fill: what is outside of the image.
        align_corners: as the KP-RPE authors have it, see above.
        supersample: n for the mean of n x n samples at each pixel. One sample leaves pixels out where a face is
            shrunk more than twice (from a 600 px crop to 112 px, say), as it does in insightface; n should be about
            that factor. Costs n^2.

    Returns:
        The geometry is in float32, or float64 if the landmarks are, under autocast too; no images give none.

    Raises:
        ValueError: wrong shapes, a dtype that is not floating point, sizes below 1 (2 for `align_corners`).
    """
    _check_images(images, out_hw, supersample)
    if landmarks.ndim != 3 or landmarks.shape[0] != len(images) or landmarks.shape[2] != 2:
        raise ValueError(f"landmarks must have shape [{len(images)}, L, 2], got {list(landmarks.shape)}")
    height, width = images.shape[-2:]
    matrix, moved, valid = _fit(landmarks, reference, (height, width), out_hw, align_corners)
    return Alignment(warp_images(images, matrix, out_hw, fill, supersample), moved, matrix, valid)


def warp_images(
    images: Tensor, matrix: Tensor, out_hw: tuple[int, int], fill: float = 0.0, supersample: int = 1
) -> Tensor:
    """Move images by affine maps, with bilinear interpolation, as cv2.warpAffine does.

    Args:
        images: [B, C, h, w] floating point.
        matrix: [B, 3, 3] floating point, last rows (0, 0, 1): pixel-index coordinates of the image to those of the
            result. Where one cannot be inverted or is not finite, the result is all `fill`.
        out_hw: (rows, cols) of the result.
        fill: what is outside of the image; the outermost pixels fade into it over one pixel.
        supersample: n for the mean of n x n samples at each pixel.

    Returns:
        [B, C, H, W] in the dtype of the images; half precision is interpolated in float32. Differentiable in both,
        except where a sample falls on the centre of a pixel, as bilinear interpolation is.

    Raises:
        ValueError: wrong shapes, a dtype that is not floating point, sizes below 1.
    """
    _check_images(images, out_hw, supersample)
    if matrix.shape != (len(images), 3, 3) or not matrix.is_floating_point():
        raise ValueError(
            f"matrix must be floating point of shape [{len(images)}, 3, 3], got {matrix.dtype} {list(matrix.shape)}"
        )
    height, width = images.shape[-2:]
    dtype = torch.promote_types(torch.promote_types(images.dtype, matrix.dtype), torch.float32)
    grid = _sampling_grid(matrix.to(dtype), (height, width), out_hw, supersample)
    sampled = _sample(images.to(dtype), grid, fill)
    if supersample > 1:
        sampled = F.avg_pool2d(sampled, supersample)
    return sampled.to(images.dtype)


def _fit(
    landmarks: Tensor, reference: Tensor | None, in_hw: tuple[int, int], out_hw: tuple[int, int], align_corners: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Matrices [B, 3, 3], moved landmarks [B, L, 2] and which of them are valid [B], as in `Alignment`."""
    if align_corners and min(*in_hw, *out_hw) < 2:
        raise ValueError(f"align_corners needs images of at least 2 x 2 pixels, got {in_hw} and {out_hw}")
    # Products of matrices would be taken in half precision.
    with torch.autocast(landmarks.device.type, enabled=False):
        landmarks = landmarks.to(torch.promote_types(landmarks.dtype, torch.float32))
        size, out_size = landmarks.new_tensor([in_hw[1], in_hw[0]]), landmarks.new_tensor([out_hw[1], out_hw[0]])
        points = landmarks * size  # from the corner, in pixels
        wanted = (_template(out_hw, align_corners) if reference is None else reference).to(landmarks) * out_size
        fit = fit_similarity(points, wanted)
        face_like = _spans_a_plane(points)
        usable = fit.valid & (face_like if reference is None else face_like | ~_spans_a_plane(wanted))
        valid = usable[:, None, None]
        resizing = [[out_hw[1] / in_hw[1], 0.0, 0.0], [0.0, out_hw[0] / in_hw[0], 0.0], [0.0, 0.0, 1.0]]
        matrix = torch.where(valid, fit.matrix, fit.matrix.new_tensor(resizing))
        known = torch.where(valid, points, 0.0)
        moved = torch.baddbmm(matrix[:, None, :2, 2], known, matrix[:, :2, :2].mT) / out_size
        moved = torch.where(valid, moved, landmarks.detach())
        to_corner, to_index = _to_corner(*in_hw, align_corners), _to_index(*out_hw, align_corners)
        return matrix.new_tensor(to_index) @ matrix @ matrix.new_tensor(to_corner), moved, usable


def _spans_a_plane(points: Tensor) -> Tensor:
    """[...] of [..., L, 2], False where all lie on a line up to rounding; not differentiable."""
    points = points.detach()
    rounding = 32 * torch.finfo(points.dtype).eps * points.abs().amax((-2, -1))
    x, y = (points - points.mean(-2, keepdim=True)).unbind(-1)
    xx, yy, xy = x.square().sum(-1), y.square().sum(-1), (x * y).sum(-1)
    # The smaller eigenvalue of their scatter is about its determinant over its trace.
    return xx * yy - xy.square() > (xx + yy) * (rounding.square() + 32 * torch.finfo(points.dtype).eps * (xx + yy))


def _sampling_grid(matrix: Tensor, in_hw: tuple[int, int], out_hw: tuple[int, int], supersample: int) -> Tensor:
    """[B, n H, n W, 2]: where in the image each sample is taken, in grid_sample's coordinates.

    An affine grid is a function of the column plus one of the row: written so, it takes one addition a number. Its
    memory is [B, 2, H, W], which additions and grid_sample are faster with than with x beside y.
    """
    known = matrix.detach()
    usable = known.isfinite().all(-1).all(-1) & (_determinant(known) != 0)
    matrix = torch.where(usable[:, None, None], matrix, matrix.new_tensor(_OUT_OF_SIGHT))
    height, width = in_hw
    cols, rows = (
        (torch.arange(size * supersample, dtype=matrix.dtype, device=matrix.device) + 0.5) / supersample - 0.5
        for size in (out_hw[1], out_hw[0])
    )
    of_col, of_row = matrix[:, 0, 1], matrix[:, 1, 0]
    inverse = torch.stack([matrix[:, 1, 1], -of_col, -of_row, matrix[:, 0, 0]], -1).unflatten(-1, (2, 2))
    scale = matrix.new_tensor([[2.0 / width], [2.0 / height]])
    inverse = inverse * (scale / _determinant(matrix)[:, None, None])
    along_cols = inverse[:, :, :1] * (cols - matrix[:, 0, 2:])[:, None]  # [B, 2, W]
    along_rows = inverse[:, :, 1:] * (rows - matrix[:, 1, 2:])[:, None] + (scale / 2 - 1)  # [B, 2, H]
    return (along_cols[:, :, None] + along_rows[..., None]).permute(0, 2, 3, 1)


def _sample(images: Tensor, grid: Tensor, fill: float) -> Tensor:
    """grid_sample with any `fill` outside of the images, in one of two ways, whichever touches less memory."""
    height, width = images.shape[-2:]
    if height * width <= _LARGER * grid.shape[1] * grid.shape[2]:
        return F.grid_sample(images - fill, grid, align_corners=False).add_(fill)
    sampled = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    covered = _coverage(grid, (height, width))
    return torch.addcmul(fill - fill * covered, sampled, covered)


def _coverage(grid: Tensor, in_hw: tuple[int, int]) -> Tensor:
    """[B, 1, H, W] in [0, 1]: which share of each sample is of the image."""
    height, width = in_hw
    half = grid.new_tensor([[[width / 2]], [[height / 2]]])
    along = torch.addcmul(half + 0.5, half, grid.permute(0, 3, 1, 2).abs(), value=-1).clamp(0, 1)
    return along[:, :1] * along[:, 1:]


def _determinant(matrix: Tensor) -> Tensor:
    return matrix[:, 0, 0] * matrix[:, 1, 1] - matrix[:, 0, 1] * matrix[:, 1, 0]


def _template(out_hw: tuple[int, int], align_corners: bool) -> Tensor:
    """[5, 2] fractions, float64 on the CPU. The authors divide pixel-index coordinates by the size."""
    points = torch.from_numpy(reference_landmarks(out_hw, pixels=False))
    if align_corners:
        pixel = 0.5 * max(out_hw) / REFERENCE_SIZE
        points = points - torch.tensor([pixel / out_hw[1], pixel / out_hw[0]])
    return points


def _to_index(height: int, width: int, align_corners: bool) -> list[list[float]]:
    """From pixels from the corner, as fractions times size are, to pixel-index coordinates."""
    if align_corners:
        return [[(width - 1) / width, 0.0, 0.0], [0.0, (height - 1) / height, 0.0], [0.0, 0.0, 1.0]]
    return [[1.0, 0.0, -0.5], [0.0, 1.0, -0.5], [0.0, 0.0, 1.0]]


def _to_corner(height: int, width: int, align_corners: bool) -> list[list[float]]:
    if align_corners:
        return [[width / (width - 1), 0.0, 0.0], [0.0, height / (height - 1), 0.0], [0.0, 0.0, 1.0]]
    return [[1.0, 0.0, 0.5], [0.0, 1.0, 0.5], [0.0, 0.0, 1.0]]


def _check_images(images: Tensor, out_hw: tuple[int, int], supersample: int) -> None:
    if images.ndim != 4 or min(images.shape[1:]) < 1 or not images.is_floating_point():
        raise ValueError(
            f"images must be floating point of shape [B, C, h, w], got {images.dtype} {list(images.shape)}"
        )
    if min(out_hw) < 1:
        raise ValueError(f"out_hw must be (rows, cols), both >= 1, got {out_hw}")
    if supersample < 1:
        raise ValueError(f"supersample must be >= 1, got {supersample}")
