"""The classifiers: which of them see keypoints, and that they start alike."""

import pytest
import torch

from common.affnist.models import MODELS, ModelSettings, build_model, draw_dots

SMALL = {"patch": 10, "dim": 16, "depth": 2, "heads": 2}


@pytest.fixture
def batch(rng):
    return torch.rand(3, 40, 40, generator=rng), torch.rand(3, 5, 2, generator=rng)


def disturb(model, rng):
    """Random weights for the encodings, which start at zero."""
    for parameter in model.vit.position_bias.parameters():
        torch.nn.init.normal_(parameter, std=1.0, generator=rng)
    return model.eval()


@pytest.mark.parametrize("pool", ["mean", "class"])
@pytest.mark.parametrize("name", MODELS)
def test_forward_and_backward(name, pool, batch):
    model = build_model(name, ModelSettings(pool=pool, **SMALL), 0)
    logits = model(*batch)
    assert logits.shape == (3, 10)
    logits.square().sum().backward()
    # With mean pooling as with a class token, everything takes part.
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("pool", ["mean", "class"])
@pytest.mark.parametrize("name", MODELS)
def test_keypoints_count_for_those_that_take_them(name, pool, batch, rng):
    model = disturb(build_model(name, ModelSettings(pool=pool, **SMALL), 0), rng)
    images, keypoints = batch
    with torch.no_grad():
        same = torch.equal(model(images, keypoints), model(images, 1 - keypoints))
    assert same == (name not in ("drawn", "kprpe"))


@pytest.mark.parametrize("name", MODELS)
def test_images_of_a_batch_do_not_mix(name, batch, rng):
    model = disturb(build_model(name, ModelSettings(**SMALL), 0), rng)
    images, keypoints = batch
    with torch.no_grad():
        together = model(images, keypoints)
        alone = torch.cat([model(images[i : i + 1], keypoints[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("name", MODELS)
def test_shared_weights_start_alike(name):
    settings = ModelSettings(**SMALL)
    plain, model = build_model("absolute", settings, 3).state_dict(), build_model(name, settings, 3).state_dict()
    for key, value in plain.items():
        if key == "vit.patch_embed.proj.weight" and name == "drawn":  # one more channel
            continue
        assert torch.equal(model[key], value), key
    other = build_model(name, settings, 4).state_dict()
    assert not torch.equal(other["vit.pos_embed"], model["vit.pos_embed"])


@pytest.mark.parametrize("name", ["irpe", "kprpe"])
def test_fresh_encoding_equals_the_model_without(name, batch):
    settings = ModelSettings(**SMALL)
    plain, model = (build_model(kind, settings, 0).eval() for kind in ("absolute", name))
    torch.testing.assert_close(model(*batch), plain(*batch))


def test_building_leaves_the_random_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    build_model("kprpe", ModelSettings(**SMALL), 0)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("name", MODELS)
def test_absolute_encoding_can_go_where_there_is_another(name):
    model = build_model(name, ModelSettings(absolute=False, **SMALL), 0)
    assert (model.vit.pos_embed is not None) == (name in ("absolute", "drawn"))


def test_dots_are_where_the_keypoints_are(rng):
    keypoints = torch.rand(2, 3, 2, generator=rng)
    dots = draw_dots(keypoints, (6, 9))
    for image in range(2):
        for row in range(6):
            for col in range(9):
                distances = [(col + 0.5 - 9 * x) ** 2 + (row + 0.5 - 6 * y) ** 2 for x, y in keypoints[image]]
                torch.testing.assert_close(dots[image, row, col], torch.exp(-min(distances)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 0}, "depth must be >= 1, got 0"),
        ({"patch": 7}, "patch must divide the frame of 40 pixels, got 7"),
        ({"heads": 3}, "heads must divide dim, got 3 heads and dim 16"),
        ({"mlp_ratio": 0.0}, "mlp_ratio must be > 0"),
        ({"pool": "max"}, "pool must be one of mean, class, got 'max'"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(ValueError, match=message):
        ModelSettings(**{**SMALL, **change})


def test_unknown_model():
    with pytest.raises(ValueError, match="no model 'swin', there are absolute, drawn"):
        build_model("swin", ModelSettings(**SMALL), 0)
