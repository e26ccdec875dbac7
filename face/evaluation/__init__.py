"""How well embeddings tell faces apart: verification pairs and closed-set identification.

opened = open_set(EvaluationSetSettings(name="lfw", path=Path("lfw.bin")), needs_keypoints=model.needs_keypoints)
evaluate(opened, model, device="cuda")  # {"accuracy": ..., "tar@far=1e-3": ...}, in percent
"""

from face.evaluation.bins import BinPairs, read_bin, write_bin
from face.evaluation.embed import ImageEmbeddings, embed_images
from face.evaluation.galleries import GallerySet, open_gallery
from face.evaluation.identification import IdentificationResult, identify
from face.evaluation.inputs import MissingLandmarks
from face.evaluation.pairs import PairSet, open_pairs
from face.evaluation.sets import EvaluationSet, EvaluationSetSettings, SetResult, evaluate, measure, open_set
from face.evaluation.verification import VerificationResult, verify

__all__ = [
    "BinPairs",
    "EvaluationSet",
    "EvaluationSetSettings",
    "GallerySet",
    "IdentificationResult",
    "ImageEmbeddings",
    "MissingLandmarks",
    "PairSet",
    "SetResult",
    "VerificationResult",
    "embed_images",
    "evaluate",
    "identify",
    "measure",
    "open_gallery",
    "open_pairs",
    "open_set",
    "read_bin",
    "verify",
    "write_bin",
]
