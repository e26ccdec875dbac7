"""KP-RPE for models of other libraries: `add_kprpe`. Importing this does not load them."""

from typing import TypeVar

from torch import nn

from common.rpe import DistanceMethod, KeypointGrid, KeypointRPEForm

__all__ = ["add_kprpe"]

M = TypeVar("M", bound=nn.Module)


def add_kprpe(
    model: M,
    num_keypoints: int,
    *,
    form: KeypointRPEForm = "multihead",
    shared: bool = False,
    method: DistanceMethod = "product",
    ratio: float = 1.9,
    keypoint_grid: KeypointGrid = "image",
) -> M:
    """Put KP-RPE into a timm model, in place: its attention layers get a bias that depends on keypoints.

    From then on it is called as `model(images, keypoints, visibility=None)`, and so is `forward_features`;
    `forward_intermediates` and `get_intermediate_layers` take `keypoints=..., visibility=...`.
    Parameters and buffers keep their names and values. The new ones are under `kprpe.` and zero, so that the outputs
    are the same until they are trained. Checkpoints of the plain model load with `strict=False`.

    Args:
        model: timm's VisionTransformer (plain, distilled or hybrid), Eva, SwinTransformer or SwinTransformerV2, not
            wrapped yet (compiled, parallel). Swin's own relative position bias stays.
        num_keypoints: L.
        form, method, ratio: see `KeypointRPE`.
        shared: one set of weights for all layers; in a Swin for those of a stage, since heads differ among stages.
        keypoint_grid: positions of the queries in a Swin's windows, see `common.rpe.grids`: the image's grid cut into
            windows ("image", as in public code), or a grid of the window's size, the same for all ("window").

    Returns:
        The same model.

    Raises:
        ImportError: no timm, or one that is too old.
        TypeError: another class of model.
        ValueError: a setting out of range or unknown; a model that has KP-RPE already; blocks or attention that take
            no bias or are not timm's own; patch dropout, after which positions and tokens would not match. The model
            is unchanged then.

    Example:
        >>> import timm, torch
        >>> model = add_kprpe(timm.create_model("vit_tiny_patch16_224"), num_keypoints=5)
        >>> model(torch.rand(2, 3, 224, 224), keypoints=torch.rand(2, 5, 2)).shape
        torch.Size([2, 1000])
    """
    try:
        from common.adapters import timm_base, timm_swin, timm_vit
    except ImportError as error:
        raise ImportError("add_kprpe needs timm >= 1.0.24") from error

    if keypoint_grid not in ("image", "window"):
        raise ValueError(f"keypoint_grid must be image or window, got {keypoint_grid!r}")
    if isinstance(model, timm_base.KeypointModel):
        raise ValueError(f"this {type(model).__name__} has KP-RPE already")
    settings = {"num_keypoints": num_keypoints, "form": form, "shared": shared, "method": method, "ratio": ratio}
    if type(model) in timm_vit.MODELS:
        if keypoint_grid != "image":
            raise ValueError(f"{type(model).__name__} has no windows: keypoint_grid must be image")
        timm_vit.adapt(model, settings)
    elif type(model) in timm_swin.MODELS:
        timm_swin.adapt(model, settings, keypoint_grid)
    else:
        supported = ", ".join(f"{kind.__module__}.{kind.__name__}" for kind in (*timm_vit.MODELS, *timm_swin.MODELS))
        found = f"{type(model).__module__}.{type(model).__qualname__}"
        raise TypeError(f"add_kprpe takes a model of exactly one of {supported}, got {found}")
    return model
