"""The three pipelines against their parts put together by hand; mirrors, faces that cannot be aligned, sizes."""

from dataclasses import dataclass, field

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from common.keypoints import FIVE_POINT_FACE, flip_keypoints
from common.runtime.settings import ConfigError, build_settings
from face.pipelines import PipelineSettings, RecognitionPipeline, join_inputs, make_pipeline, reduced_size
from face.reference import reference_landmarks

HW = (112, 112)


class Spy(nn.Module):
    """A model that keeps what it was given."""

    def __init__(self, image_hw=HW, needs_keypoints=True):
        super().__init__()
        self.image_hw, self.needs_keypoints = image_hw, needs_keypoints
        self.calls = []
        self.weight = nn.Parameter(torch.randn(3 * 49, 4, generator=torch.Generator().manual_seed(0)))
        self.points = nn.Parameter(torch.randn(10, 4, generator=torch.Generator().manual_seed(1)))

    def forward(self, images, keypoints=None, visibility=None):
        self.calls.append((images, keypoints, visibility))
        assert images.shape[1:] == (3, *self.image_hw)
        out = F.adaptive_avg_pool2d(images, 7).flatten(1) @ self.weight
        if keypoints is not None:
            seen = keypoints if visibility is None else keypoints * visibility[..., None]
            out = out + 10 * seen.flatten(1) @ self.points
        return out


@pytest.fixture
def faces(dots, dot_points):
    """[2, 3, 120, 150], one turned and small, and their landmarks."""
    turned = (dot_points - 0.5) @ torch.tensor([[0.7, 0.4], [-0.4, 0.7]]).double().numpy() + [0.45, 0.55]
    images = [dots((120, 150), points) for points in (dot_points, turned)]
    pixels = torch.stack([torch.from_numpy(image).permute(2, 0, 1) for image in images])
    points = torch.stack([torch.from_numpy(points) for points in (dot_points, turned)]).float()
    return pixels / 127.5 - 1, points


@pytest.fixture
def blank():
    """No face to align."""
    return torch.zeros(1, 3, 120, 150)


def mirror(points):
    return flip_keypoints(points, FIVE_POINT_FACE)


def test_given_is_the_model_and_a_size(faces):
    images, points = faces
    model = Spy((60, 75))
    pipeline = RecognitionPipeline(model)
    seen = torch.tensor([[1.0, 1, 0, 1, 1], [1, 1, 1, 1, 1]])
    small = F.avg_pool2d(images, 2)
    assert_close(pipeline(small, points, seen), model(small, points, seen))
    assert model.calls[0][0] is small
    found = pipeline.recognise(images, points)
    assert_close(found.inputs.images, small, atol=0.2, rtol=0)  # the filter is a triangle, not a box
    assert found.inputs.keypoints is points
    assert found.inputs[3:] == (None, None, None)


def test_given_without_need_of_keypoints(faces):
    images, points = faces
    pipeline = RecognitionPipeline(Spy(needs_keypoints=False))
    pipeline(images, points, torch.ones(2, 5))
    assert pipeline.model.calls[0][1:] == (None, None)
    with pytest.raises(ValueError, match=r"the model needs keypoints, and the pipeline has no aligner to find them"):
        RecognitionPipeline(Spy())(images)


def test_dfa_finds_landmarks_and_leaves_the_image(faces, dot_aligner):
    images, points = faces
    pipeline = RecognitionPipeline(Spy(), "dfa", dot_aligner())
    assert not pipeline.needs_keypoints
    found = pipeline.recognise(images, torch.zeros(2, 5, 2))
    assert_close(found.inputs.landmarks, points, atol=4e-3, rtol=0)
    assert found.inputs.keypoints.equal(found.inputs.landmarks)
    assert found.inputs.images.equal(RecognitionPipeline(Spy(needs_keypoints=False)).prepare(images).images)
    assert found.inputs.valid.tolist() == [True, True]
    assert (found.inputs.score > 0.8).all()
    assert found.inputs.visibility is None
    assert_close(found.embeddings, pipeline.model(found.inputs.images, found.inputs.keypoints))


@pytest.mark.parametrize("needs_keypoints", [True, False])
def test_dfa_aligned_carries_landmarks_along(faces, dot_aligner, needs_keypoints):
    images, _ = faces
    pipeline = RecognitionPipeline(Spy(needs_keypoints=needs_keypoints), "dfa_aligned", dot_aligner())
    inputs = pipeline.recognise(images).inputs
    # The dots of the aligned images are where the keypoints are said to be, as near the template as these faces get.
    seen = pipeline.aligner(inputs.images).landmarks
    template = torch.from_numpy(reference_landmarks(HW, pixels=False)).float()
    assert abs(seen - template).max() < 0.06
    if needs_keypoints:
        assert_close(inputs.keypoints, seen, atol=4e-3, rtol=0)
    else:
        assert inputs.keypoints is None
    assert_close(inputs.landmarks, pipeline.aligner(images).landmarks)


@pytest.mark.parametrize("kind", ["given", "dfa", "dfa_aligned"])
def test_flip_test_mirrors_what_the_model_gets(faces, dot_aligner, kind):
    images, points = faces
    pipeline = RecognitionPipeline(Spy(), kind, None if kind == "given" else dot_aligner())
    found = pipeline.recognise(images, points, flip_test=True)
    inputs = found.inputs
    first, second = pipeline.model.calls[-2:]
    assert second[0].equal(inputs.images.flip(-1))
    assert_close(second[1], mirror(inputs.keypoints))
    assert_close(found.embeddings, pipeline.model(*first) + pipeline.model(*second))


@pytest.mark.parametrize("kind", ["dfa", "dfa_aligned"])
def test_a_face_that_cannot_be_aligned(faces, blank, dot_aligner, kind):
    images, _ = faces
    pipeline = RecognitionPipeline(Spy(), kind, dot_aligner())
    inputs = pipeline.prepare(torch.cat([images, blank]))
    assert inputs.valid.tolist() == [True, True, False]
    assert_close(inputs.images[2], torch.zeros(3, *HW))  # as it came; an aligned one would have a black rim
    assert inputs.visibility.tolist() == [[1.0] * 5, [1.0] * 5, [0.0] * 5]
    assert inputs.keypoints.isfinite().all()
    alone = pipeline.prepare(images)
    assert_close(inputs.images[:2], alone.images)
    assert_close(inputs.keypoints[:2], alone.keypoints)


def test_landmarks_are_found_in_full_precision(faces, dot_aligner):
    images, _ = faces
    pipeline = RecognitionPipeline(Spy(), "dfa", dot_aligner())
    with torch.autocast("cpu", torch.bfloat16):
        half = pipeline.recognise(images)
    assert half.embeddings.dtype == torch.bfloat16
    assert half.inputs.landmarks.equal(pipeline.prepare(images).landmarks)


def test_gradients_reach_the_aligner(faces, dot_aligner):
    images, _ = faces
    for kind in ("dfa", "dfa_aligned"):
        aligner = dot_aligner()
        pipeline = RecognitionPipeline(Spy(), kind, aligner)
        aligner.network.sharpness.grad = None
        pipeline(images).square().sum().backward()
        assert aligner.network.sharpness.grad.abs() > 0


def test_batches_of_several_sizes_join(faces, blank, dot_aligner):
    images, _ = faces
    pipeline = RecognitionPipeline(Spy(), "dfa_aligned", dot_aligner())
    parts = [pipeline.prepare(images), pipeline.prepare(blank[..., :90])]
    joined = join_inputs(parts)
    assert joined.images.shape == (3, 3, *HW)
    assert joined.visibility.tolist() == [[1.0] * 5, [1.0] * 5, [0.0] * 5]
    assert joined.valid.tolist() == [True, True, False]
    assert_close(pipeline.embed(joined), torch.cat([pipeline.embed(part) for part in parts]))
    assert join_inputs(parts[:1]).visibility is None
    plain = RecognitionPipeline(Spy(needs_keypoints=False))
    assert join_inputs([plain.prepare(images), plain.prepare(blank)])[1:] == (None,) * 5


def test_reduced_size():
    assert reduced_size((300, 150), 100) == (100, 50)
    assert reduced_size((150, 300), 100) == (50, 100)
    assert reduced_size((90, 100), 100) == (90, 100)
    assert reduced_size((1, 5000), 100) == (1, 100)


@dataclass(frozen=True, kw_only=True)
class Run:
    pipeline: PipelineSettings = field(default_factory=PipelineSettings)


def test_settings():
    found = build_settings({"pipeline": {"kind": "dfa", "aligner": "owner/name", "padding_ratio": 0.215}}, Run).pipeline
    assert (found.kind, found.aligner, found.padding_ratio) == ("dfa", "owner/name", 0.215)
    for given, said in (
        ({"kind": "dfa"}, "pipeline: kind dfa needs aligner, the weights of a face aligner"),
        ({"aligner": "x"}, "pipeline: kind given has no use for an aligner, got x"),
        (
            {"padding_ratio": 2.0, "source_size": 8},
            "padding_ratio must be from 0 to below 2, got 2.0; source_size must",
        ),
        ({"kind": "aligned"}, "pipeline.kind: 'aligned' is not one of given, dfa, dfa_aligned"),
    ):
        with pytest.raises(ConfigError) as caught:
            build_settings({"pipeline": given}, Run)
        assert said in str(caught.value)


def test_refuses(faces, dot_aligner):
    with pytest.raises(ValueError, match="kind dfa needs an aligner"):
        RecognitionPipeline(Spy(), "dfa")
    with pytest.raises(ValueError, match="kind given has no use for an aligner"):
        RecognitionPipeline(Spy(), "given", dot_aligner())
    with pytest.raises(ValueError, match="kind must be given, dfa or dfa_aligned, got 'aligned'"):
        RecognitionPipeline(Spy(), "aligned", dot_aligner())
    with pytest.raises(ValueError, match=r"the aligner makes images of \(96, 112\), the model takes \(112, 112\)"):
        RecognitionPipeline(Spy(), "dfa_aligned", dot_aligner(out_hw=(96, 112)))
    RecognitionPipeline(Spy(), "dfa", dot_aligner(out_hw=(96, 112)))  # whose images nobody looks at
    with pytest.raises(ValueError, match=r"images must have shape \[B, 3, h, w\], none of them 0, got \[2, 1, 8, 8\]"):
        RecognitionPipeline(Spy())(torch.zeros(2, 1, 8, 8))


def test_made_from_settings(faces, dot_aligner, monkeypatch):
    asked = []

    def load(source, settings=None, inference=True, device="cpu"):
        asked.append((source, settings, inference))
        return dot_aligner(out_hw=settings.out_hw, padding_ratio=settings.padding_ratio)

    monkeypatch.setattr("face.dfa.aligner.load_aligner", load)
    model = Spy((96, 112))
    settings = PipelineSettings(kind="dfa_aligned", aligner="weights", padding_ratio=0.2, source_size=64)
    pipeline = make_pipeline(model, settings)
    ((source, how, inference),) = asked
    assert (source, how.out_hw, how.padding_ratio, inference) == ("weights", (96, 112), 0.2, True)
    assert pipeline.model is model
    assert (pipeline.kind, pipeline.source_size) == ("dfa_aligned", 64)
    assert pipeline(faces[0]).shape == (2, 4)
    plain = make_pipeline(model, PipelineSettings())
    assert plain.aligner is None
    assert plain.needs_keypoints
    assert len(asked) == 1


def test_made_of_weights_in_a_folder(faces, tmp_path):
    from face.dfa.pretrained import create_dfa, save_dfa

    save_dfa(create_dfa("dfa_mobilenet", image_hw=(64, 64)), tmp_path)
    pipeline = make_pipeline(Spy(), PipelineSettings(kind="dfa_aligned", aligner=str(tmp_path)))
    found = pipeline.recognise(faces[0])
    assert found.embeddings.shape == (2, 4)
    assert not any(weight.requires_grad for weight in pipeline.aligner.parameters())
    assert not pipeline.aligner.training
