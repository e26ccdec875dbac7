"""Evaluation of gait embeddings: distances, retrieval metrics, and the protocols of the data sets."""

from plugin.evaluation.distance import Metric, part_distance
from plugin.evaluation.gait3d import gait3d_evaluation
from plugin.evaluation.protocols import EvalFunc, Protocol, ProtocolResult
from plugin.evaluation.retrieval import RetrievalResult, retrieval_metrics

__all__ = [
    "EvalFunc",
    "Metric",
    "Protocol",
    "ProtocolResult",
    "RetrievalResult",
    "gait3d_evaluation",
    "part_distance",
    "retrieval_metrics",
]
