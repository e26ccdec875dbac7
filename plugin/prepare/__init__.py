"""Raw gait sets -> paired pickles: `OUT/ID/type/view/{0-silhouettes,1-keypoints}.pkl`, read by OpenGait.

`python -m plugin.prepare --help`, or from Python:

    report = prepare(PrepareSettings(silhouettes=..., poses=..., partition=..., out=...))

Silhouettes are [T, 64, 64] or [T, 64, 44] uint8, bit by bit those of OpenGait's pretreatment; keypoints are
[T, 17, 3] float32 (x, y in pixels of the normalised silhouette, confidence), frame by frame the same frames.
"""

from plugin.prepare.cli import main
from plugin.prepare.layouts import RAW_LAYOUTS, RawLayout
from plugin.prepare.normalise import Placement, normalise_silhouette, place_keypoints
from plugin.prepare.report import Report
from plugin.prepare.run import prepare
from plugin.prepare.settings import PrepareSettings

__all__ = [
    "RAW_LAYOUTS",
    "Placement",
    "PrepareSettings",
    "RawLayout",
    "Report",
    "main",
    "normalise_silhouette",
    "place_keypoints",
    "prepare",
]
