"""The embedded runtime as a host of the plugin's models: a base model with OpenGait's surface, and a registry."""

from typing import Any

import torch
from torch import nn

from plugin.backbone import SwinGait2DBackbone, SwinGait3DBackbone
from plugin.model import Host, make_models
from plugin.runtime.modules import HorizontalPoolingPyramid, PackSequenceWrapper, SeparateBNNecks, SeparateFCs

__all__ = ["BACKBONES", "MODELS", "BaseModel"]

BACKBONES: dict[str, type[nn.Module]] = {
    "SwinGait2DBackbone": SwinGait2DBackbone,
    "SwinGait3DBackbone": SwinGait3DBackbone,
}


class BaseModel(nn.Module):
    """The part of OpenGait's base model that a model is written against; loops and files are the runner's.

    Args:
        cfgs: the run's settings under their YAML keys.
        training: train phase or test phase.
        msg_mgr: something with log_info.
    """

    def __init__(self, cfgs: dict[str, Any], training: bool, msg_mgr: Any) -> None:
        super().__init__()
        self.cfgs = cfgs
        self.msg_mgr = msg_mgr
        self.build_network(cfgs["model_cfg"])
        # However many numbers that drew: models that differ in one part start alike in all the others.
        torch.manual_seed(torch.initial_seed() + 1)
        self.init_parameters()
        self.train(training)

    def build_network(self, model_cfg: dict[str, Any]) -> None:
        """Make the network's parts attributes of the model."""
        raise TypeError(f"{type(self).__name__} does not build a network")

    def init_parameters(self) -> None:
        """Set the initial weights."""

    def get_optimizer(self, optimizer_cfg: dict[str, Any]) -> torch.optim.Optimizer:
        """Build the optimizer that `solver` names."""
        settings = dict(optimizer_cfg)
        return getattr(torch.optim, settings.pop("solver"))(self.parameters(), **settings)

    def get_backbone(self, backbone_cfg: dict[str, Any]) -> nn.Module:
        """Build the backbone that `type` names."""
        settings = dict(backbone_cfg)
        return BACKBONES[settings.pop("type")](**settings)

    def get_scheduler(self, optimizer: torch.optim.Optimizer, scheduler_cfg: dict[str, Any]) -> Any:
        """Build the learning rate schedule that `scheduler` names; one step an iteration."""
        settings = dict(scheduler_cfg)
        return getattr(torch.optim.lr_scheduler, settings.pop("scheduler"))(optimizer, **settings)

    def fix_batch_norm(self) -> None:
        """Keep batch norm statistics as they are."""
        for module in self.modules():
            if "BatchNorm" in type(module).__name__:
                module.eval()


_HOST = Host(
    base_model=BaseModel,
    horizontal_pooling=HorizontalPoolingPyramid,
    pack_sequence=PackSequenceWrapper,
    separate_fcs=SeparateFCs,
    separate_bnnecks=SeparateBNNecks,
)

MODELS: dict[str, type[nn.Module]] = make_models(_HOST)
