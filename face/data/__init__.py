"""Training images and their landmarks: RecordIO sets or a folder for each identity, behind one interface.

source = open_source("faces_webface_112x112")
image, label = source.read(0), source.labels[0]
landmarks = read_landmarks("faces_webface_112x112/ldmk_5points.csv", source)
"""

from face.data.folders import FolderSource
from face.data.images import ImageError, decode_image
from face.data.landmarks import Landmarks, read_landmarks, write_cvlface_landmarks, write_landmarks
from face.data.records import RecordError, RecordSource, RecordWriter, rebuild_index
from face.data.sources import ImageSource, SourceView, keep_identities, open_source

__all__ = [
    "FolderSource",
    "ImageError",
    "ImageSource",
    "Landmarks",
    "RecordError",
    "RecordSource",
    "RecordWriter",
    "SourceView",
    "decode_image",
    "keep_identities",
    "open_source",
    "read_landmarks",
    "rebuild_index",
    "write_cvlface_landmarks",
    "write_landmarks",
]
