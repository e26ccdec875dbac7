"""What tables call models, and that all problems of a run are said at once."""

import pytest

from face.evaluation.suite import Problems, model_names


@pytest.mark.parametrize(
    ("sources", "names"),
    [
        (["output/vit_base/weights/best"], ["vit_base"]),
        (["output/vit_base/weights/best/model.safetensors"], ["vit_base"]),
        (["cvlface_adaface/pretrained_model/model.pt"], ["cvlface_adaface"]),
        (["minchul/cvlface_vit"], ["cvlface_vit"]),
        (["a/adaface_ir101.ckpt"], ["adaface_ir101.ckpt"]),
        (["out/vit/weights/best", "out/vit/weights/last"], ["vit/weights/best", "vit/weights/last"]),
        (["one/vit/weights/best", "two/vit/weights/best"], ["one/vit/weights/best", "two/vit/weights/best"]),
        (["ViT-B + KP-RPE=out/vit", "b=c=d"], ["ViT-B + KP-RPE", "b"]),
        (["weights"], ["weights"]),
    ],
    ids=range(9),
)
def test_names(sources, names):
    assert list(model_names(sources)) == names


def test_names_lead_to_sources(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=0.1").mkdir()
    assert model_names(["A=b/c", "lr=0.1", "d/e/weights/best"]) == {
        "A": "b/c",
        "lr=0.1": "lr=0.1",
        "e": "d/e/weights/best",
    }


@pytest.mark.parametrize(
    ("sources", "match"),
    [
        (["a/b", "a/b"], "a/b is given twice"),
        (["A=a", "A=b"], "two models are called A"),
        (["=a"], "expected SOURCE or NAME=SOURCE"),
        (["A="], "expected SOURCE or NAME=SOURCE"),
    ],
    ids=range(4),
)
def test_names_refused(sources, match):
    with pytest.raises(ValueError, match=match):
        model_names(sources)


def test_problems():
    problems = Problems()
    assert problems.error() is None
    with problems.noted():
        raise ValueError("first")
    assert str(problems.error()) == "first"
    for error in (OSError("second"), ValueError("first")):
        with problems.noted():
            raise error
    assert str(problems.error()) == "2 problems\n  first\n  second"
    with pytest.raises(KeyError), problems.noted():
        raise KeyError("a mistake in the code")
