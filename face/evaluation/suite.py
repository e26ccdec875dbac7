"""Models and benchmarks of a run of `python -m face.evaluate`, all of them opened and checked before it begins."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common.runtime.errors import error_text
from face.dfa.predict import weights_checksum
from face.evaluation.fusion import FusionSettings
from face.evaluation.ijb import IJBSet
from face.evaluation.ijbs import IJBSSet
from face.evaluation.protocols import check_fusion
from face.evaluation.results import data_hashes
from face.evaluation.sets import DEFAULT_FUSIONS, EvaluationSet, EvaluationSetSettings, open_set
from face.models.pretrained import load_pretrained
from face.pipelines import PipelineSettings, RecognitionPipeline, make_pipeline

__all__ = ["Problems", "describe_models", "describe_sets", "model_names", "open_models", "open_sets"]

_PLAIN_PARTS = {"best", "last", "weights", "pretrained_model", "model.safetensors", "model.pt", "model.ckpt"}


class Problems:
    """What is wrong with a run, collected, so that all of it is said at once."""

    def __init__(self) -> None:
        self.found: list[str] = []

    @contextmanager
    def noted(self) -> Iterator[None]:
        """An error of the user's in here is noted, and the block left."""
        try:
            yield
        except (ValueError, OSError) as error:
            self.found.append(error_text(error))

    def error(self) -> ValueError | None:
        """One error of them all; None if there are none."""
        found = list(dict.fromkeys(self.found))
        if len(found) < 2:
            return ValueError(found[0]) if found else None
        return ValueError("\n  ".join([f"{len(found)} problems", *found]))


def model_names(sources: Sequence[str]) -> dict[str, str]:
    """From what tables call a model to where its weights are.

    `NAME=SOURCE` gives a name. Else it is the last part of the path that is no matter of course: vit_base of
    output/vit_base/weights/best; as many parts as it takes where two would have the same.

    Raises:
        ValueError: one that comes twice, a name of two models, or one that is empty.
    """
    given: dict[int, str] = {}
    places: list[str] = []
    for number, source in enumerate(sources):
        name, equals, place = source.partition("=")
        if equals and not Path(source).exists():
            given[number], source = name.strip(), place
        places.append(source)
    if twice := next((place for place in places if places.count(place) > 1), None):
        raise ValueError(f"--weights: {twice} is given twice")
    names = [given.get(number) or _short(place, 1) for number, place in enumerate(places)]
    for length in range(2, 9):
        same = {name for name in names if names.count(name) > 1}
        names = [
            _short(place, length) if name in same and number not in given else name
            for number, (name, place) in enumerate(zip(names, places, strict=True))
        ]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"--weights: two models are called {twice}; give names as NAME={places[names.index(twice)]}")
    if not all(names) or not all(places) or any(not name for name in given.values()):
        raise ValueError(f"--weights: expected SOURCE or NAME=SOURCE, got {' '.join(sources)}")
    return dict(zip(names, places, strict=True))


def open_models(
    sources: Mapping[str, str], settings: PipelineSettings, problems: Problems
) -> dict[str, RecognitionPipeline]:
    """Pipelines by the names of their models, on the CPU, in evaluation mode."""
    opened: dict[str, RecognitionPipeline] = {}
    for name, source in sources.items():
        with problems.noted():
            model = load_pretrained(source)
            opened[name] = make_pipeline(model, settings).eval()
    return opened


def open_sets(
    settings: Sequence[EvaluationSetSettings],
    pipelines: Mapping[str, RecognitionPipeline],
    fusion: FusionSettings | None,
    problems: Problems,
    *,
    progress: bool,
) -> dict[str, EvaluationSet]:
    """Sets by their names, checked for all models."""
    opened: dict[str, EvaluationSet] = {}
    needs_keypoints = any(pipeline.needs_keypoints for pipeline in pipelines.values())
    for entry in settings:
        with problems.noted():
            found = open_set(entry, needs_keypoints=needs_keypoints, progress=progress)
            opened[entry.name] = found
            content = found.content
            if isinstance(content, IJBSet | IJBSSet):
                pooling = fusion or DEFAULT_FUSIONS[entry.kind]
                listed = isinstance(content, IJBSet) or content.landmarks is not None
                for pipeline in pipelines.values():
                    known = listed or pipeline.aligner is not None
                    check_fusion(pooling, landmarks=known, scores=known, where=f"evaluation set {entry.name}")
    return opened


def describe_models(sources: Mapping[str, str], pipelines: Mapping[str, RecognitionPipeline]) -> dict[str, Any]:
    """What results.json says of models."""
    described = {}
    for name, pipeline in pipelines.items():
        model = pipeline.model
        described[name] = {
            "source": sources[name],
            "file": None if model.origin is None else model.origin.source,
            "name": model.config.name,
            "settings": model.config.settings,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "crc32": f"{weights_checksum(model):08x}",
            "aligner_crc32": None if pipeline.aligner is None else f"{weights_checksum(pipeline.aligner.network):08x}",
        }
    return described


def describe_sets(opened: Mapping[str, EvaluationSet]) -> dict[str, Any]:
    """What results.json says of sets."""
    return {
        name: {
            "kind": found.settings.kind,
            "path": str(found.settings.path),
            "images": len(found.content.images),
            "sha256": data_hashes(found),
        }
        for name, found in opened.items()
    }


def _short(source: str, length: int) -> str:
    """The last parts of a path, without those that say nothing at its end."""
    parts = list(Path(source).parts)
    kept = parts[:]
    while len(kept) > 1 and kept[-1] in _PLAIN_PARTS:
        kept.pop()
    if length > 1:  # best and last of one run, then the folders before
        return "/".join(parts[-(len(parts) - len(kept) + length - 1) :])
    return kept[-1]
