"""Synthetic walkers in the raw layout of Gait3D and other gait sets, so that everything can be run without people.

They say nothing about accuracy on people. `python -m plugin.synthesize --help`, or `synthesize` from Python.
"""

from plugin.synthesize.camera import Camera, View, draw_cameras, look
from plugin.synthesize.cli import main
from plugin.synthesize.dataset import (
    NOTE,
    Frame,
    partition,
    places,
    render_sequence,
    sequence_names,
    subject_of,
    synthesize,
)
from plugin.synthesize.layouts import Place
from plugin.synthesize.settings import LAYOUT_NAMES, SynthesisSettings
from plugin.synthesize.walker import Body, Gait, Subject, Take, Walk, draw_subject, draw_take, walk

__all__ = [
    "LAYOUT_NAMES",
    "NOTE",
    "Body",
    "Camera",
    "Frame",
    "Gait",
    "Place",
    "Subject",
    "SynthesisSettings",
    "Take",
    "View",
    "Walk",
    "draw_cameras",
    "draw_subject",
    "draw_take",
    "look",
    "main",
    "partition",
    "places",
    "render_sequence",
    "sequence_names",
    "subject_of",
    "synthesize",
    "walk",
]
