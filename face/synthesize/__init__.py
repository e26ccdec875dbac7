"""Synthetic faces with exact landmarks, so that training, alignment and every benchmark can be run without people.

They say nothing about real faces. `python -m face.synthesize --help`, or `synthesize` from Python;
pictures of them are in face.synthesize.pictures.
"""

from face.synthesize.cli import main
from face.synthesize.crops import Crop
from face.synthesize.dataset import NOTE, synthesize
from face.synthesize.face import Face
from face.synthesize.images import Split, crop_scene, face_of, render_scene
from face.synthesize.pose import Head, Take
from face.synthesize.render import Scene, paint_scene
from face.synthesize.settings import SynthesisSettings

__all__ = [
    "NOTE",
    "Crop",
    "Face",
    "Head",
    "Scene",
    "Split",
    "SynthesisSettings",
    "Take",
    "crop_scene",
    "face_of",
    "main",
    "paint_scene",
    "render_scene",
    "synthesize",
]
