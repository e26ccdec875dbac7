"""The SwinGait models, 2D and 3D, written once against what they need of a host.

A host is a gait framework: OpenGait, or the embedded runtime of `plugin.runtime`. It brings a base model and four
building blocks; the network, its initial weights, its optimizer groups and its forward are here.

Source: Fan et al., "Exploring Deep Models for Practical Gait Recognition", https://arxiv.org/abs/2303.03301; heads,
initial weights and optimizer groups as in OpenGait's SwinGait (ShiqiYu/OpenGait@0efafd4).
Shape letters: n sequences, c channels, s frames, h x w pixels or tokens, p parts, L joints.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from plugin.backbone import SwinGait2DBackbone, SwinGait3DBackbone, translate_swingait_keys

__all__ = ["Host", "make_models"]

# Parameters of the transformer without weight decay, by a part of their name.
_NO_DECAY = ("patch_embed", "norm", "position_bias")


@dataclass(frozen=True)
class Host:
    """What the models need of the framework they run in."""

    base_model: type[nn.Module]
    """Calls build_network, init_parameters and get_optimizer; offers get_backbone and msg_mgr.log_info."""

    horizontal_pooling: Any
    """HorizontalPoolingPyramid(bin_num)."""

    pack_sequence: Any
    """PackSequenceWrapper(pooling function)."""

    separate_fcs: Any
    """SeparateFCs(parts_num, in_channels, out_channels)."""

    separate_bnnecks: Any
    """SeparateBNNecks(parts_num, in_channels, class_num)."""


def init_weights(module: nn.Module) -> None:
    """SwinGait's initial weights, for one module: normal for linear maps, Xavier for convolutions, near 1 for norms.

    KP-RPE has no nn.Linear inside and keeps its zeros; tables keep theirs too.
    """
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        nn.init.xavier_uniform_(module.weight)
    elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
        if module.affine:
            nn.init.normal_(module.weight, 1.0, 0.02)
    elif not isinstance(module, nn.LayerNorm):
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def make_models(host: Host) -> dict[str, type[nn.Module]]:
    """The model classes for a host, by the name that `model_cfg.model` has for them: SwinGait2D and SwinGait3D."""

    class SwinGait(host.base_model):  # type: ignore[name-defined]
        """SwinGait with or without KP-RPE; which one is `model_cfg.backbone_cfg.position_bias`."""

        backbone: type[nn.Module]

        def build_network(self, model_cfg: dict[str, Any]) -> None:
            # The heads draw their weights first: they are then the same whatever the backbone's position bias draws.
            self.FCs = host.separate_fcs(**model_cfg["SeparateFCs"])
            self.BNNecks = host.separate_bnnecks(**model_cfg["SeparateBNNecks"])
            self.Backbone = self.get_backbone(model_cfg["backbone_cfg"])
            if not isinstance(self.Backbone, self.backbone):
                raise ValueError(
                    f"model_cfg.backbone_cfg.type must be {self.backbone.__name__} for {type(self).__name__}, "
                    f"got {type(self.Backbone).__name__}"
                )
            self.TP = host.pack_sequence(torch.max)
            self.HPP = host.horizontal_pooling(bin_num=model_cfg["bin_num"])

        def init_parameters(self) -> None:
            self.apply(init_weights)

        def get_optimizer(self, optimizer_cfg: dict[str, Any]) -> torch.optim.Optimizer:
            self.msg_mgr.log_info(f"Optimizer: {optimizer_cfg}")
            settings = dict(optimizer_cfg)
            solver = getattr(torch.optim, settings.pop("solver"))
            slow = settings["lr"] * settings.pop("lr_scale_cnn", 0.1)
            free: list[nn.Parameter] = []
            decayed: list[nn.Parameter] = []
            for name, parameter in self.Backbone.transformer.named_parameters():
                (free if any(part in name for part in _NO_DECAY) else decayed).append(parameter)
            groups = [{"params": free, "weight_decay": 0.0}, {"params": decayed}]
            convolutions = (self.Backbone.layer0, self.Backbone.layer1, self.Backbone.layer2)
            groups += [
                {"params": list(part.parameters()), "lr": slow} for part in (self.FCs, self.BNNecks, *convolutions)
            ]
            return solver(groups, **settings)

        def translate_checkpoint(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
            """Weights of SwinGait or DeepGaitV2 checkpoints under this model's names."""
            return translate_swingait_keys(state, prefix="Backbone.")

        def forward(self, inputs: Any) -> dict[str, Any]:
            """OpenGait's five inputs to its three outputs.

            Streams are silhouettes [n, s, h, w] and, for kprpe, keypoints [n, s, L, 3]; whole sequences lie end to
            end in [1, sum of s, ...], with seqL [1, n]. Embeddings are [n, c, p].
            """
            streams, labels, _, _, seqL = inputs
            silhouettes = streams[0]
            tokens = self.Backbone(silhouettes, streams[1] if len(streams) > 1 else None, seqL)
            pooled = self.TP(tokens, seqL, options={"dim": 2})[0]  # [n, c, h, w]
            parts = self.HPP(pooled)
            # SwinGait gives the lowest stripe a second, detached, head that is trained and not tested.
            parts = torch.cat([parts, parts[..., -1:].detach()], dim=-1)
            embeddings = self.FCs(parts)
            _, logits = self.BNNecks(embeddings)
            embeddings, logits = embeddings[..., :-1].contiguous(), logits[..., :-1].contiguous()
            return {
                "training_feat": {
                    "triplet": {"embeddings": embeddings, "labels": labels},
                    "softmax": {"logits": logits, "labels": labels},
                },
                "visual_summary": {"image/sils": silhouettes.flatten(0, 1)[:, None]},
                "inference_feat": {"embeddings": embeddings},
            }

    class SwinGait2D(SwinGait):
        """Frame by frame until temporal pooling."""

        backbone = SwinGait2DBackbone

    class SwinGait3D(SwinGait):
        """Convolutions and windows over neighbouring frames."""

        backbone = SwinGait3DBackbone

    return {"SwinGait2D": SwinGait2D, "SwinGait3D": SwinGait3D}
