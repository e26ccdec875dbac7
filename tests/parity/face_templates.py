"""What insightface's and CVLface's evaluation of templates gives for made-up embeddings.

Functions run unchanged: insightface's are taken out of scripts that need a GPU and a data set (and so is the loop that
fills the table of eval_ijbc.py), CVLface's are modules.

Run as a script, with INSIGHTFACE_ROOT and CVLFACE_ROOT set, it writes what tests compare with where no checkout is at
hand: `python tests/parity/face_templates.py`. Embeddings are drawn from NumPy's RandomState, whose numbers are frozen,
so only results are stored.
"""

import ast
import contextlib
import heapq
import importlib.util
import io
import math
import os
import re
import types
import warnings
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import sklearn.preprocessing
from sklearn.metrics import auc, roc_curve

STORED = Path(__file__).with_name("face_templates.npz")
FARS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
CVLFACE = "cvlface/research/recognition/code/run_v1"


class Verification(NamedTuple):
    """Images of templates, and pairs of those."""

    embeddings: np.ndarray
    templates: np.ndarray
    medias: np.ndarray
    scores: np.ndarray
    p1: np.ndarray
    p2: np.ndarray
    label: np.ndarray


class Search(NamedTuple):
    """Probes and a gallery."""

    probe: np.ndarray
    gallery: np.ndarray
    probe_labels: np.ndarray
    gallery_labels: np.ndarray


def functions(place: str, names: tuple[str, ...], **known: Any) -> tuple[dict[str, Any], list[ast.stmt]]:
    """Functions of one of insightface's scripts by name, and all its statements."""
    path = Path(os.environ["INSIGHTFACE_ROOT"]) / place
    body = ast.parse(path.read_text()).body
    found = [node for node in body if isinstance(node, ast.FunctionDef) and node.name in names]
    namespace: dict[str, Any] = {"np": np, **known}
    exec(compile(ast.Module(list(found), []), str(path), "exec"), namespace)
    return namespace, body


def insightface_templates(case: Verification) -> tuple[np.ndarray, np.ndarray]:
    """`image2template_feature` of eval_ijbc.py."""
    theirs, _ = functions("recognition/arcface_torch/eval_ijbc.py", ("image2template_feature",), sklearn=sklearn)
    with contextlib.redirect_stdout(io.StringIO()):
        return theirs["image2template_feature"](case.embeddings, case.templates, case.medias)


def insightface_scores(case: Verification, values: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """`verification` of eval_ijbc.py."""
    theirs, _ = functions("recognition/arcface_torch/eval_ijbc.py", ("verification",))
    with contextlib.redirect_stdout(io.StringIO()):
        return theirs["verification"](values, ids, case.p1, case.p2)


def insightface_table(label: np.ndarray, score: np.ndarray) -> list[str]:
    """The cells of the table that eval_ijbc.py prints: TAR at FARS in percent, two digits."""
    theirs, body = functions("recognition/arcface_torch/eval_ijbc.py", (), roc_curve=roc_curve, auc=auc)
    theirs.update(methods=np.array(["m"]), scores={"m": score}, label=label, colours={"m": "k"})
    theirs.update(x_labels=list(FARS), target="IJBC", tpr_fpr_table=mock.Mock(), plt=mock.Mock())
    loop = [node for node in body if isinstance(node, ast.For)][-1:]
    exec(compile(ast.Module(loop, []), "eval_ijbc.py", "exec"), theirs)
    return theirs["tpr_fpr_table"].add_row.call_args.args[0][1:]


def insightface_search(case: Search) -> list[str]:
    """What ijb_1n.py prints of `evaluation`: top1, top5, top10, and a line for each FAR."""
    names = ("evaluation", "gen_mask")
    theirs, _ = functions("recognition/_evaluation_/ijb/ijb_1n.py", names, math=math, heapq=heapq)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        mask = theirs["gen_mask"](case.probe_labels, case.gallery_labels)
        theirs["evaluation"](unit(case.probe), unit(case.gallery), mask)
    return [line for line in printed.getvalue().splitlines() if re.match(r"top\d+ =|far =", line)]


def cvlface(place: str) -> types.ModuleType:
    """One of CVLface's modules that stand on their own."""
    path = Path(os.environ["CVLFACE_ROOT"]) / CVLFACE / place
    spec = importlib.util.spec_from_file_location(f"cvlface_{path.parent.name}_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cvlface_verification(case: Verification) -> dict[str, float]:
    """TAR and threshold at FARS of its three configurations."""
    with contextlib.redirect_stderr(io.StringIO()):  # its progress bars
        found = cvlface("evaluations/ijbbc/evaluate.py").evaluate(
            case.embeddings, case.scores, case.templates, case.medias, case.label, case.p1, case.p2
        )
    return {key: float(value) for key, value in found.items()}


def cvlface_search(case: Search, ranks: tuple[int, ...], fars: tuple[float, ...]) -> np.ndarray:
    """DIR_FAR: fractions [F, R], or [R] for a closed set (fars of 1)."""
    mates = case.probe_labels[:, None] == case.gallery_labels[None]
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rates = cvlface("evaluations/tinyface/metrics.py").DIR_FAR(
            unit(case.probe) @ unit(case.gallery).T, mates, list(ranks), list(fars)
        )[0]
    return np.asarray(rates, dtype=np.float64)


def cvlface_weights(landmarks: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """[n] weights of the landmark-score pipeline, with the lines of its `__call__` between nme and norm_norms."""
    import torch

    path = Path(os.environ["CVLFACE_ROOT"]) / CVLFACE / "pipelines/infer_aligner_keypoint_model_nmescore_pipeline.py"
    (made,) = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)]
    methods = {node.name: node for node in made.body if isinstance(node, ast.FunctionDef)}
    wanted = ("nme", "ldmk_score", "norm_norms")
    lines = [
        node
        for node in methods["__call__"].body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id in wanted
    ]
    reference = next(node for node in methods["__init__"].body if "_reference_landmark" in ast.unparse(node))
    namespace: dict[str, Any] = {"torch": torch, "np": np, "sqrt": math.sqrt, "self": types.SimpleNamespace()}
    exec(compile(ast.Module([methods["calc_nme_batched"], reference], []), str(path), "exec"), namespace)
    holder, calculate = namespace["self"], namespace["calc_nme_batched"]
    holder.reference_landmark = holder._reference_landmark.unsqueeze(0)
    holder.calc_nme_batched = lambda *arguments, **named: calculate(holder, *arguments, **named)
    namespace |= {"orig_pred_ldmks": torch.from_numpy(landmarks), "score": torch.from_numpy(scores)[:, None]}
    exec(compile(ast.Module(list(lines), []), str(path), "exec"), namespace)
    return namespace["norm_norms"][:, 0].numpy()


def unit(embeddings: np.ndarray) -> np.ndarray:
    return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)


def verification_case(
    seed: int,
    templates: int = 60,
    images: int = 400,
    channels: int = 16,
    pairs: int = 4000,
    likeness: float = 1.0,
    levels: float | None = None,
    dtype: type = np.float32,
) -> Verification:
    """Subjects have about four templates, templates a few images, some of them frames of one video.

    Args:
        seed: of the draws.
        templates: T.
        images: n, in no order.
        channels: E.
        pairs: P, about a third of them genuine.
        likeness: how much of a common vector the images of a subject have.
        levels: values are rounded to so many a unit, so that cosines repeat.
        dtype: of the embeddings.
    """
    random = np.random.RandomState(seed)
    subject = random.randint(0, max(2, templates // 4), templates)
    ids = random.permutation(5 * templates)[:templates] + 3
    place = np.append(np.arange(templates), random.randint(0, templates, images - templates))
    place = random.permutation(place)
    centres = random.standard_normal((templates, channels))
    embeddings = likeness * centres[subject[place]] + random.standard_normal((images, channels))
    embeddings *= np.exp(0.5 * random.standard_normal((images, 1)))
    if levels:
        embeddings = np.rint(embeddings * levels) / levels
        embeddings[~embeddings.any(axis=1), 0] = 1
    sides = random.randint(0, templates, (2, pairs))
    partner = np.array([random.choice(np.nonzero(subject == subject[one])[0]) for one in sides[0]])
    sides[1] = np.where(random.rand(pairs) < 0.3, partner, sides[1])
    return Verification(
        embeddings=embeddings.astype(dtype),
        templates=ids[place],
        medias=random.randint(0, 4, images),
        scores=random.uniform(0.2, 1, images).astype(np.float32),
        p1=ids[sides[0]],
        p2=ids[sides[1]],
        label=(subject[sides[0]] == subject[sides[1]]).astype(np.int64),
    )


def verification_cases() -> dict[str, Verification]:
    equal = verification_case(4, 20, 60, 4, 500)
    equal = equal._replace(embeddings=np.tile(np.float32([[0.5, 1, -2, 0.25]]), (60, 1)))
    twice = verification_case(5, 40, 200, 8, 3000, 1.5)
    return {
        "random": verification_case(0, likeness=0.0),
        "structured": verification_case(1, 200, 1500, 32, 20000, 1.0),
        "structured-float64": verification_case(2, 100, 600, 24, 8000, 0.7, dtype=np.float64),
        "separable": verification_case(3, 80, 500, 64, 6000, 4.0),
        "all-equal": equal,
        "pairs-twice": twice._replace(p1=np.tile(twice.p1, 2), p2=np.tile(twice.p2, 2), label=np.tile(twice.label, 2)),
        "few-levels": verification_case(6, 120, 150, 3, 6000, 1.0, levels=1),
    }


def search_case(seed: int, n: int, m: int, channels: int, likeness: float, *, unmated: int = 0) -> Search:
    """A gallery with an entry for each of m persons, and probes of the first m - unmated ones in the gallery order that
    a permutation gives; the gallery then lacks the persons of some probes."""
    random = np.random.RandomState(seed)
    persons = random.permutation(3 * (m + unmated))[: m + unmated]
    centres = random.standard_normal((m + unmated, channels))
    of_probe = random.randint(0, m + unmated, n)
    return Search(
        probe=centres[of_probe] * likeness + random.standard_normal((n, channels)),
        gallery=centres[:m] * likeness + random.standard_normal((m, channels)),
        probe_labels=persons[of_probe],
        gallery_labels=persons[:m],
    )


def search_cases() -> dict[str, Search]:
    """Every probe has one mate."""
    one_gallery = search_case(2, 150, 40, 8, 1.0)
    return {
        "random": search_case(0, 230, 60, 12, 0.0),
        "structured": search_case(1, 1000, 150, 32, 0.8),
        "a-probe-twice": one_gallery._replace(
            probe=np.concatenate([one_gallery.probe] * 2), probe_labels=np.tile(one_gallery.probe_labels, 2)
        ),
        "separable": search_case(3, 300, 50, 64, 3.0),
    }


def open_cases() -> dict[str, Search]:
    """Some probes have no mate, the others one."""
    return {
        "random": search_case(10, 230, 60, 12, 0.0, unmated=30),
        "structured": search_case(11, 1000, 150, 32, 0.8, unmated=70),
        "few-unmated": search_case(12, 200, 90, 16, 0.6, unmated=3),
    }


def tiny_case(seed: int = 20) -> Search:
    """As TinyFace: several entries for a person, and distractors that share a label."""
    random = np.random.RandomState(seed)
    centres = random.standard_normal((40, 16))
    of_probe, of_gallery = random.randint(0, 40, 120), np.append(np.arange(40), random.randint(0, 40, 60))
    return Search(
        probe=centres[of_probe] + random.standard_normal((120, 16)),
        gallery=np.concatenate([centres[of_gallery], np.zeros((300, 16))]) + random.standard_normal((400, 16)),
        probe_labels=of_probe,
        gallery_labels=np.append(of_gallery, np.full(300, -100)),
    )


OPEN_FARS, OPEN_RANKS = (0.001, 0.01, 0.1, 0.3), (1, 5, 10)
TINY_RANKS = (1, 5, 20)

if __name__ == "__main__":
    stored: dict[str, np.ndarray] = {}
    for name, example in verification_cases().items():
        numbers = cvlface_verification(example)
        stored[f"{name}|keys"] = np.array(list(numbers))
        stored[f"{name}|values"] = np.array(list(numbers.values()))
        weighted = example._replace(embeddings=example.embeddings * example.scores[:, None])
        values, ids = insightface_templates(weighted)
        cells = insightface_table(example.label, insightface_scores(example, values, ids))
        stored[f"{name}|table"] = np.array(cells)
        print(f"{name}: {' '.join(cells)}")
    for name, searched in search_cases().items():
        stored[f"{name}|search"] = np.array(insightface_search(searched))
    for name, searched in open_cases().items():
        stored[f"{name}|open"] = cvlface_search(searched, OPEN_RANKS, OPEN_FARS)
    stored["tiny"] = cvlface_search(tiny_case(), TINY_RANKS, (1.0,))
    np.savez_compressed(STORED, **stored)  # type: ignore[arg-type]
    print(f"{STORED}: {STORED.stat().st_size} bytes")
