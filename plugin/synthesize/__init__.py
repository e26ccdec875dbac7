"""Synthetic walkers in the raw layout of Gait3D, so that everything can be run without a data set of people.

They say nothing about accuracy on people. `python -m plugin.synthesize --help`, or `synthesize` from Python.
"""

from plugin.synthesize.camera import Camera, View, draw_cameras, look
from plugin.synthesize.cli import main
from plugin.synthesize.dataset import (
    NOTE,
    Frame,
    partition,
    render_sequence,
    sequence_names,
    subject_of,
    synthesize,
)
from plugin.synthesize.settings import SynthesisSettings
from plugin.synthesize.walker import Body, Gait, Subject, Take, Walk, draw_subject, draw_take, walk

__all__ = [
    "NOTE",
    "Body",
    "Camera",
    "Frame",
    "Gait",
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
    "render_sequence",
    "sequence_names",
    "subject_of",
    "synthesize",
    "walk",
]
