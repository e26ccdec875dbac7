"""FaceViT computes what the authors' vision transformers compute, for the same weights, images and keypoints.

The stored numbers are theirs, written by tests/parity/cvlface.py; with CVLFACE_ROOT set their checkout is run too.
Compared are the plain ViT, ViT + KP-RPE with every published context and method, and ViT + iRPE. Not compared: the
contexts "..._v2" (an MLP on the keypoints, which no publication or released model has) and masked training.
"""

import importlib.util
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from common.rpe import PositionBiasSettings, num_buckets
from face.models.cvlface import translate_cvlface_keys
from face.models.vit import FaceViT, vit_base, vit_small


def _harness():
    path = Path(__file__).parents[2] / "parity" / "cvlface.py"
    spec = importlib.util.spec_from_file_location("parity_cvlface", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


cvlface = _harness()
ROOT = Path(os.environ.get("CVLFACE_ROOT", "."))
live = pytest.mark.skipif(not os.environ.get("CVLFACE_ROOT"), reason="CVLFACE_ROOT names no CVLface checkout")

METHODS = {"product": "product", "euc": "euclidean", "quant": "quant", "cross": "cross"}
FORMS = {  # their ctx_type to our form and whether layers share the weights
    "rel_keypoint": ("relative", True),
    "rel_keypoint_unshared": ("relative", False),
    "rel_keypoint_splithead": ("multihead", True),
    "rel_keypoint_splithead_unshared": ("multihead", False),
    "keypoint": ("absolute", True),
}
WAYS = [  # attention's implementation and KP-RPE's
    *((attention, "affine") for attention in ("auto", "fused", "explicit", "compact")),
    *((attention, "direct") for attention in ("auto", "fused", "explicit")),
]
WAYS_OF_CASES = [(case, *way) for case in cvlface.KPRPE_CASES for way in WAYS]
WAYS_OF_CASES += [
    (case, attention, None)
    for case in [cvlface.Case("vit"), *cvlface.IRPE_CASES]
    for attention in ("auto", "fused", "explicit")
    if attention != "fused" or case.mode == "bias" or "v" not in case.rpe_on
]
LARGER = cvlface.Size(image=42, patch=6, dim=32, depth=3, heads=4, mlp_ratio=5.0, features=12, batch=8)
MORE_CASES = [
    *(
        cvlface.Case("vit_kprpe", method, ratio, ctx)
        for ctx in cvlface.CTX_TYPES
        for method, ratio in (("euc", 2.5), ("quant", 1.9), ("cross", 1.0), ("product", 0.7))
    ),
    *(
        cvlface.Case("vit_irpe", method, 1.9, rpe_on=places, shared_head=shared)
        for places in ("kv", "qv", "k", "qkv")
        for method in METHODS
        for shared in (True, False)
    ),
    *(
        cvlface.Case("vit_irpe", method, 1.9, rpe_on=places, mode="bias", shared_head=shared)
        for places in ("k", "q", "qk")
        for method in METHODS
        for shared in (True, False)
    ),
]


def settings_of(case):
    if case.package == "vit":
        return PositionBiasSettings(position_bias="none")
    common = {"method": METHODS[case.method], "ratio": case.ratio}
    if case.package == "vit_kprpe":
        form, shared = FORMS[case.ctx_type]
        return PositionBiasSettings(position_bias="kprpe", num_keypoints=5, form=form, shared=shared, **common)
    name = "irpe" if case.mode == "ctx" else "irpe_bias"
    return PositionBiasSettings(position_bias=name, irpe_on=case.rpe_on, irpe_per_head=not case.shared_head, **common)


def ours(case, size, state, attention="auto", rpe=None):
    """Our network with their weights."""
    model = FaceViT(
        num_features=size.features,
        image_hw=(size.image, size.image),
        patch_hw=(size.patch, size.patch),
        embed_dim=size.dim,
        depth=size.depth,
        num_heads=size.heads,
        mlp_ratio=size.mlp_ratio,
        position_bias=settings_of(case),
        implementation=attention,
    )
    if rpe is not None:
        model.position_bias.kprpe.implementation = rpe
    model.load_state_dict(translate_cvlface_keys(_cross_in_one(case, state)))
    return model


def _cross_in_one(case, state):
    """For the cross method we have one table, of the buckets of rows and then those of columns. Their iRPE has two
    tables; their KP-RPE has one of half the buckets, which serves rows and columns: ours gets it twice."""
    if case.method != "cross":
        return state
    merged = {}
    for name, value in state.items():
        if name.startswith("keypoint_linear."):
            buckets = value.unflatten(0, (-1, num_buckets("cross", case.ratio) // 2))
            value = torch.cat([buckets, buckets], dim=1).flatten(0, 1)
        elif ".rp_rows." in name:
            columns = state[name.replace("rp_rows", "rp_cols")]
            value = torch.cat([value, columns], dim=_bucket_axis(name))
        merged[name.replace("rp_rows.", "")] = value
    return {name: value for name, value in merged.items() if ".rp_cols." not in name}


def _bucket_axis(name):
    return -2 if "rpe_v" in name else -1


def gradient_under(name, model, case):
    """The gradient of what became of their parameter `name` in our model."""
    table = re.fullmatch(r"blocks\.(\d+)\.attn\.rpe_([qkv])\.(rp_rows\.|rp_cols\.)?lookup_table_\w+", name)
    if table:
        place = {"q": "on_queries", "k": "on_keys", "v": "on_values"}[table[2]]
        gradient = getattr(model.position_bias.irpe, place).grad[int(table[1])]
        if table[3]:
            gradient = gradient.chunk(2, dim=_bucket_axis(name))[table[3] == "rp_cols."]
        return gradient
    if name.startswith("keypoint_linear."):
        rpe = model.position_bias.kprpe
        gradient = getattr(rpe, name.split(".")[1]).grad
        if case.method == "cross":
            gradient = gradient.unflatten(0, (-1, 2, rpe.num_buckets // 2)).sum(1).flatten(0, 1)
        return gradient
    return model.get_parameter(name).grad


def outcome_of_ours(model, case, size, names):
    found = cvlface.outcome(model, lambda network, images, keypoints: network(images, keypoints), size)
    found["gradients"] = {name: gradient_under(name, model, case) for name in names}
    return found


def assert_close(found, expected, what, scale=None, tolerance=1e-4):
    """Within a tolerance of the largest number expected (1, where that is smaller)."""
    found = found.to(expected.dtype)
    assert found.shape == expected.shape, what
    scale = max(1.0, float(expected.abs().max() if scale is None else scale))
    difference = float((found - expected).abs().max())
    assert difference <= tolerance * scale, f"{what}: {difference:g} of {scale:g}"


@pytest.fixture(scope="module")
def stored():
    with np.load(cvlface.STORED_NETWORKS) as file:
        arrays = {name: torch.from_numpy(file[name]) for name in file.files if name != "shapes"}
        return arrays, json.loads(file["shapes"].tobytes())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("case", "attention", "rpe"), WAYS_OF_CASES, ids=str)
def test_stored_outcome(stored, case, attention, rpe, dtype):
    arrays, shapes = stored
    tolerance = {torch.float32: 1e-4, torch.float64: 1e-6}[dtype]
    shapes = {name: tuple(shape) for name, shape in shapes[str(case)].items()}
    model = ours(case, cvlface.TINY, cvlface.numbers(shapes, cvlface.SEED), attention, rpe).to(dtype)
    names = sorted(name for name in shapes if "running" not in name and "num_batches" not in name)
    found = outcome_of_ours(model, case, cvlface.TINY, names)
    for name in ("eval", "train", "mean"):
        assert_close(found[name], arrays[f"{case}/{name}"], name, 1, tolerance)
    for name, expected, scale in zip(names, arrays[f"{case}/gradients"], arrays[f"{case}/scales"], strict=True):
        assert_close(cvlface.sample(found["gradients"][name]), expected, name, scale, tolerance)


def test_what_the_stored_outcomes_cover(stored):
    """Other outputs for every case, whose weights are the same but for the encoding's: none is without an effect."""
    arrays, shapes = stored
    assert sorted(shapes) == sorted(map(str, cvlface.CASES))
    outputs = [arrays[f"{case}/eval"] for case in cvlface.CASES]
    for index, output in enumerate(outputs):
        assert all((output - other).abs().max() > 0.1 for other in outputs[:index])


@live
@pytest.mark.parametrize("case", dict.fromkeys([*cvlface.CASES, *MORE_CASES]), ids=str)
def test_outcome_beside_the_authors_code(case):
    state, expected = cvlface.reference(ROOT, case, LARGER, seed=11)
    names = expected["gradients"]
    in_single, in_double = (
        outcome_of_ours(ours(case, LARGER, state).to(dtype), case, LARGER, names)
        for dtype in (torch.float32, torch.float64)
    )
    for name in ("eval", "train", "mean"):
        assert_close(in_single[name], expected[name], name, 1)
        assert_close(in_double[name], expected[name], name, 1, 1e-10)
    for name in names:  # in float32, gradients depend on which side of a ReLU6's corner a sum is rounded to
        assert_close(in_double["gradients"][name], expected["gradients"][name], name, tolerance=1e-10)


@live
def test_the_authors_absolute_context_is_no_encoding_as_it_stands():
    """Why ctx_type "keypoint" is compared with its context given to every query: as it stands, it changes nothing."""
    case = cvlface.Case("vit_kprpe", ctx_type="keypoint")
    model = cvlface.network(ROOT, case, cvlface.TINY)
    state = {name: value.clone() for name, value in cvlface.fill(model, cvlface.SEED).items()}
    images, keypoints, _ = cvlface.inputs(cvlface.TINY)
    with torch.no_grad():
        as_it_stands = model.eval()(images, keypoints)
        with cvlface.keypoints_for_every_query(ROOT):
            for_every_query = model(images, keypoints)
        plain = {name: value for name, value in state.items() if "keypoint_linear" not in name}
        without = ours(cvlface.Case("vit"), cvlface.TINY, plain).eval()(images)
    assert_close(without, as_it_stands, "no encoding", 1, 1e-5)
    assert (for_every_query - as_it_stands).abs().max() > 0.1


@live
@pytest.mark.parametrize(
    ("package", "config", "build"),
    [
        ("vit_kprpe", "v1_small_kprpe_splithead_unshared", vit_small),
        ("vit_kprpe", "v1_base_kprpe_splithead_unshared", vit_base),
        ("vit_irpe", "v1_base_irpe", vit_base),
    ],
)
def test_published_networks(package, config, build, rng):
    """The published sizes, built from the authors' own YAML files: outputs and, for ViT-S, gradients."""
    config = cvlface.Config(
        yaml.safe_load((ROOT / cvlface.MODELS / package / "configs" / f"{config}.yaml").read_text())
    )
    config.rpe_config = cvlface.Config(config.rpe_config)
    theirs = cvlface.load_models(ROOT, package).load_model(config).eval()
    with torch.no_grad():
        for name, value in theirs.named_parameters():
            if "keypoint_linear" in name or "lookup_table" in name:
                value.normal_(0, 1 if "keypoint_linear" in name else 0.2, generator=rng)
            elif "qkv" in name:
                value.mul_(3)  # freshly built, attention is all but uniform
    case = cvlface.Case(package, **{key: config.rpe_config[key] for key in cvlface.Case._fields[1:]})
    with torch.device("meta"):
        model = build(settings_of(case), num_features=config.output_dim).eval()
    model.load_state_dict(translate_cvlface_keys(theirs.state_dict()), assign=True)
    images = torch.randn(2, 3, 112, 112, generator=rng)
    keypoints = torch.rand(2, 5, 2, generator=rng)
    arguments = (images, keypoints) if package == "vit_kprpe" else (images,)
    with torch.no_grad():
        expected, found = theirs(*arguments), model(images, keypoints)
    assert expected.std() > 0.1
    assert_close(found, expected, "embeddings", 1)
    if build is vit_base:
        return
    # Not of the head, which is most of the weights and none of the transformer.
    names = [name for name, _ in theirs.named_parameters() if "feature" not in name]
    theirs.double()
    model.double()
    weights = torch.randn(1, config.output_dim, generator=rng, dtype=torch.float64)
    images, keypoints = images[:1].double(), keypoints[:1].double()
    with cvlface.in_double():
        out = (theirs(images, keypoints) * weights).sum()
    gradients = torch.autograd.grad(out, [theirs.get_parameter(name) for name in names])
    gradients = translate_cvlface_keys(dict(zip(names, gradients, strict=True)))
    out = (model(images, keypoints) * weights).sum()
    own = torch.autograd.grad(out, [model.get_parameter(name) for name in gradients])
    for name, of_ours in zip(gradients, own, strict=True):
        assert_close(of_ours, gradients[name], name, tolerance=1e-10)
