"""Faces of five coloured dots on grey, and a landmark network that finds such dots wherever they are."""

import cv2
import numpy as np
import pytest
import torch
from torch import nn

POINTS = np.array([[0.34, 0.40], [0.62, 0.38], [0.50, 0.55], [0.38, 0.70], [0.60, 0.69]])
COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [255, 0, 255]])
_FINE = 8


def draw_dots(size_hw=(100, 100), points=POINTS, radius=0.03):
    """uint8 [h, w, 3] RGB; points [5, 2] and radius are fractions of the image, the radius of its shorter side."""
    height, width = size_hw
    image = np.full((height * _FINE, width * _FINE, 3), 128, np.uint8)
    for (x, y), colour in zip(points, COLOURS.tolist(), strict=True):
        centre = round(x * width * _FINE - 0.5), round(y * height * _FINE - 0.5)
        cv2.circle(image, centre, round(radius * min(size_hw) * _FINE), colour, cv2.FILLED)
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


class DotNetwork(nn.Module):
    """Stands in for a DFANetwork: each landmark is the centre of what has its colour; without any, the image's.

    The score is how near the rarest colour comes to what it should be.
    """

    def __init__(self):
        super().__init__()
        from face.dfa.network import DFASettings

        self.settings = DFASettings()
        self.image_hw = self.settings.image_hw
        self.register_buffer("colours", torch.tensor(COLOURS / 127.5 - 1, dtype=torch.float32))
        self.sharpness = nn.Parameter(torch.tensor(8.0))
        self.shapes = []

    def predict(self, images, aggregate=True):
        from face.dfa.network import DFAPrediction

        assert images.shape[2:] == self.image_hw
        self.shapes.append(tuple(images.shape))
        far = (images[:, None] - self.colours[:, :, None, None]).square().sum(2)
        weights = (-self.sharpness * far).exp() + 1e-12
        height, width = self.image_hw
        x = (torch.arange(width, device=images.device) + 0.5) / width
        y = (torch.arange(height, device=images.device) + 0.5) / height
        total = weights.sum((2, 3))
        points = torch.stack([(weights * x).sum((2, 3)), (weights * y[:, None]).sum((2, 3))], -1) / total[..., None]
        score = weights.amax((2, 3)).amin(1).clamp(0, 1)
        boxes = torch.cat([points.amin(1), points.amax(1)], dim=1)
        return DFAPrediction(landmarks=points, score=score, boxes=boxes)

    def for_inference(self):
        return self


@pytest.fixture
def dots():
    return draw_dots


@pytest.fixture
def dot_points():
    return POINTS


@pytest.fixture
def dot_network():
    return DotNetwork()


@pytest.fixture
def dot_aligner(dot_network):
    """A FaceAligner that finds dots; arguments are those of AlignerSettings."""
    from face.dfa.aligner import AlignerSettings, FaceAligner

    def make(**settings):
        return FaceAligner(dot_network, AlignerSettings(**settings)).eval()

    return make
