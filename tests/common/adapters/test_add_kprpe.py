"""add_kprpe on all families of timm models: what must not change, how a model is used, and what is refused."""

import copy
import io
import pickle
import sys
import threading
from typing import Any

import pytest
import timm
import torch
from timm.models.swin_transformer import SwinTransformer, WindowAttention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn

from common import KeypointRPE, add_kprpe

LANDMARKS = 5


@pytest.fixture
def compiled():
    """torch.compile that remembers nothing of other tests, whose models share the code of theirs."""
    torch.compiler.reset()
    return lambda model: torch.compile(model, backend="eager", fullgraph=True)


def encodings(model):
    return [model.kprpe] if isinstance(model.kprpe, KeypointRPE) else list(model.kprpe)


def test_a_fresh_encoding_changes_nothing(what, build, batch):
    model = build(what)
    plain = copy.deepcopy(model)
    assert add_kprpe(model, LANDMARKS) is model
    images, keypoints, visibility = batch(model)
    with torch.no_grad():
        expected = plain(images)
        assert torch.equal(model(images, keypoints), expected)
        assert torch.equal(model(images, keypoints=keypoints, visibility=visibility), expected)
        assert torch.equal(model.forward_features(images, keypoints), plain.forward_features(images))


def test_parameters_and_buffers_keep_names_and_values(what, build):
    model = build(what)
    before = dict(model.named_parameters()) | dict(model.named_buffers())
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    add_kprpe(model, LANDMARKS)
    after = dict(model.named_parameters()) | dict(model.named_buffers())
    assert all(after[name] is tensor for name, tensor in before.items())
    assert all(name.startswith("kprpe.") for name in after.keys() - before.keys())
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in state.items())
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert set(missing) == {name for name in model.state_dict() if name.startswith("kprpe.")}


def test_copies_and_pickles_compute_the_same(what, build, fill, batch):
    model = fill(add_kprpe(build(what), LANDMARKS))
    images, keypoints, visibility = batch(model)
    expected = model(images, keypoints, visibility)
    assert torch.equal(copy.deepcopy(model)(images, keypoints, visibility), expected)
    assert torch.equal(pickle.loads(pickle.dumps(model))(images, keypoints, visibility), expected)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = fill(add_kprpe(build(what), LANDMARKS))
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(images, keypoints, visibility), expected)


def test_gradients_through_checkpoints(what, build, fill, batch):
    """The same outputs and gradients with timm's gradient checkpointing, which runs every attention once more."""
    model = fill(add_kprpe(build(what), LANDMARKS)).double()
    images, keypoints, visibility = (tensor.requires_grad_() for tensor in batch(model))
    leaves = {"keypoints": keypoints, "visibility": visibility, **dict(model.named_parameters())}
    runs = []
    start, end = ("layers.", ".softmax") if hasattr(model, "layers") else ("blocks.", "q_norm")
    for name, module in model.named_modules():
        if name.startswith(start) and name.endswith(end):
            module.register_forward_hook(lambda *_: runs.append(1))

    def run():
        runs.clear()
        out = model(images, keypoints, visibility)
        grads = torch.autograd.grad(out.square().sum(), list(leaves.values()), allow_unused=True)
        return out, dict(zip(leaves, grads, strict=True)), len(runs)

    out, grads, times = run()
    model.set_grad_checkpointing()
    out_checkpointed, grads_checkpointed, times_checkpointed = run()
    assert times_checkpointed == 2 * times > 0
    assert torch.equal(out_checkpointed, out)
    for leaf, grad in grads.items():
        if grad is None:
            assert grads_checkpointed[leaf] is None
        else:
            torch.testing.assert_close(grads_checkpointed[leaf], grad)
    for leaf in ("keypoints", "visibility", *(leaf for leaf in leaves if leaf.startswith("kprpe."))):
        assert grads[leaf].abs().max() > 0, leaf


@pytest.mark.parametrize("what", ["rotary with register", "Swin, padded"])
def test_compiles_as_one_graph(what, build, fill, batch, compiled):
    model = fill(add_kprpe(build(what), LANDMARKS))
    arguments = batch(model)
    torch.testing.assert_close(compiled(model)(*arguments), model(*arguments))


@pytest.mark.parametrize("what", ["class token", "Swin V2"])
def test_compiles_for_images_of_several_sizes(what, build, fill, batch, compiled):
    model = fill(add_kprpe(build(what, dynamic_img_size=True), LANDMARKS))
    fast = compiled(model)
    for image_hw in ((32, 48), (48, 64)):
        arguments = batch(model, image_hw)
        torch.testing.assert_close(fast(*arguments), model(*arguments))


def test_fused_and_written_out_attention_agree(what, build, fill, batch):
    model = fill(add_kprpe(build(what), LANDMARKS)).double()
    images, keypoints, visibility = batch(model)
    expected = model(images, keypoints, visibility)
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = not module.fused_attn
    torch.testing.assert_close(model(images, keypoints, visibility), expected)


@pytest.mark.parametrize("what", ["class token", "normalised queries", "EVA-02", "Swin", "Swin V2"])
@pytest.mark.parametrize("fused", [True, False])
def test_half_precision(what, fused, build, fill, batch):
    model = fill(add_kprpe(build(what), LANDMARKS))
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = fused
    images, keypoints, _ = batch(model)
    with torch.no_grad():
        expected = model(images, keypoints)
        with torch.autocast("cpu", torch.bfloat16):
            cast = model(images, keypoints)
        half = model.bfloat16()(images.bfloat16(), keypoints)
    scale = expected.abs().max()
    assert (cast - expected).abs().max() < 0.05 * scale
    assert half.dtype == torch.bfloat16
    assert (half - expected).abs().max() < 0.05 * scale


@pytest.mark.parametrize("what", ["class token", "Swin"])
def test_threads_do_not_see_each_others_keypoints(what, build, fill, batch):
    model = fill(add_kprpe(build(what), LANDMARKS))
    batches = [batch(model) for _ in range(4)]
    expected = [model(*each) for each in batches]
    found = [torch.empty(0)] * len(batches)

    def work(index):
        for _ in range(5):
            found[index] = model(*batches[index])

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(batches))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def test_intermediates_are_the_outputs_of_the_layers(what, build, fill, batch):
    model = fill(add_kprpe(build(what), LANDMARKS))
    images, keypoints, visibility = batch(model)
    outputs = []
    layers = model.layers if hasattr(model, "layers") else model.blocks
    for layer in layers:
        layer.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    expected = model.forward_features(images, keypoints, visibility)
    hooked = list(outputs)
    named = {"keypoints": keypoints, "visibility": visibility}
    final, intermediates = model.forward_intermediates(images, **named)
    assert torch.equal(final, expected)
    assert len(intermediates) == len(hooked) == len(layers)
    prefix = getattr(model, "num_prefix_tokens", 0)
    for feature, output in zip(intermediates, hooked, strict=True):
        maps = output if output.ndim == 4 else output[:, prefix:].unflatten(1, feature.shape[2:])
        assert torch.equal(feature, maps.permute(0, 3, 1, 2))
    first = model.forward_intermediates(images, indices=[0], stop_early=True, intermediates_only=True, **named)
    assert torch.equal(first[0], intermediates[0])
    if hasattr(model, "get_intermediate_layers"):
        (last,) = model.get_intermediate_layers(images, 1, reshape=True, **named)
        assert torch.equal(last, intermediates[-1])


@pytest.mark.parametrize("settings", [{"form": "relative"}, {"shared": True}, {"method": "cross", "ratio": 1.0}])
@pytest.mark.parametrize("what", ["class token", "Swin"])
def test_settings_reach_the_encoding(what, settings, build):
    model = add_kprpe(build(what), 7, **settings)
    for encoding in encodings(model):
        assert encoding.num_keypoints == 7
        assert all(getattr(encoding, name) == value for name, value in settings.items())


def test_the_encoding_is_where_the_model_is(build):
    model = add_kprpe(build("Swin").to(torch.bfloat16), LANDMARKS)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert not any(module.training for module in model.modules())


# What is refused.


def unchanged(model):
    """Class names and state of a model, to be compared after a refusal."""
    return [type(module) for module in model.modules()], list(model.state_dict())


def refuse(model, error, match, **settings):
    before = unchanged(model)
    with pytest.raises(error, match=match):
        add_kprpe(model, **{"num_keypoints": LANDMARKS, **settings})
    assert unchanged(model) == before


def test_keypoints_are_needed(what, build, batch):
    model = add_kprpe(build(what), LANDMARKS)
    images, keypoints, _ = batch(model)
    methods = [model, model.forward_features, model.forward_intermediates]
    if hasattr(model, "get_intermediate_layers"):
        methods.append(model.get_intermediate_layers)
    for method in methods:
        with pytest.raises(ValueError, match=r"Keypoint\w+ needs keypoints: \[B, L, 2\]"):
            method(images)
    with pytest.raises(ValueError, match="keypoints of 2 images are needed, got those of 1"):
        model(images, keypoints[:1])
    with pytest.raises(ValueError, match=r"\[B, 5, 2\], got \[2, 4, 2\]"):
        model(images, keypoints[:, :4])
    with pytest.raises(ValueError, match="are they in pixels"):
        model(images, 100 * keypoints)


@pytest.mark.parametrize(
    "name", ["resnet18", "swinv2_cr_tiny_ns_224", "beit_base_patch16_224", "vit_relpos_small_patch16_224"]
)
def test_other_models(name):
    with torch.device("meta"):
        model = timm.create_model(name)
    refuse(model, TypeError, rf"exactly one of .*VisionTransformer, .*got timm.models.\w+.{type(model).__name__}")


def test_subclasses_and_wrapped_models(build):
    class Mine(VisionTransformer):
        pass

    refuse(Mine(img_size=32, depth=1, embed_dim=24, num_heads=3), TypeError, "got .*Mine")
    refuse(torch.compile(build("class token"), backend="eager"), TypeError, "got torch.*OptimizedModule")
    refuse(nn.DataParallel(build("class token")), TypeError, "got torch.*DataParallel")


@pytest.mark.parametrize("what", ["class token", "Swin"])
def test_twice(what, build):
    refuse(add_kprpe(build(what), LANDMARKS), ValueError, r"Keypoint\w+ has KP-RPE already")


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("vit_dwee_patch16_reg1_gap_256", "attention of class DiffAttention"),
        ("vit_dpwee_patch16_reg1_gap_256", "blocks of class DiffParallelScalingBlock"),
    ],
)
def test_differential_attention(name, match):
    refuse(timm.create_model(name, img_size=32, depth=1), ValueError, match)


def test_blocks_of_others():
    class MyBlock(Block):
        pass

    class MyAttention(WindowAttention):
        pass

    model = VisionTransformer(img_size=32, depth=2, embed_dim=24, num_heads=3, block_fn=MyBlock)
    refuse(model, ValueError, "blocks of class MyBlock.*supported: Block,")
    swin: Any = SwinTransformer(img_size=32, embed_dim=8, depths=(1,), num_heads=(2,), window_size=4)
    swin.layers[0].blocks[0].attn = MyAttention(8, 2, window_size=4)
    refuse(swin, ValueError, "part of class MyAttention, which is not timm's own")


def test_patches_of_others(build):
    model = build("class token")
    model.patch_embed = nn.Identity()
    refuse(model, ValueError, "patches of class Identity")


@pytest.mark.parametrize("what", ["class token", "EVA-02"])
def test_patch_dropout(what, build):
    refuse(build(what, patch_drop_rate=0.25), ValueError, r"patch_drop_rate=0.25.*create it with patch_drop_rate=0")


def test_settings_out_of_range(build):
    refuse(build("class token"), ValueError, "num_keypoints must be >= 1", num_keypoints=0)
    refuse(build("Swin"), ValueError, "form must be one of", form="polar")
    refuse(build("Swin"), ValueError, "keypoint_grid must be image or window, got 'windows'", keypoint_grid="windows")
    refuse(build("class token"), ValueError, "has no windows: keypoint_grid must be image", keypoint_grid="window")


def test_without_a_timm_that_has_what_is_needed(build, monkeypatch):
    model = build("class token")
    monkeypatch.setitem(sys.modules, "common.adapters.timm_vit", None)
    monkeypatch.delattr("common.adapters.timm_vit", raising=False)
    refuse(model, ImportError, r"add_kprpe needs timm >= 1\.0\.24")


def test_masks_beside_the_encoding(build, batch):
    model = add_kprpe(build("class token"), LANDMARKS)
    images, keypoints, _ = batch(model)
    for extra in ({"is_causal": True}, {"attn_mask": torch.ones(7, 7, dtype=torch.bool)}):
        with pytest.raises(ValueError, match="attn_mask and is_causal cannot be given beside KP-RPE"):
            model.forward_intermediates(images, keypoints=keypoints, **extra)
