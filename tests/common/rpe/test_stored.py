"""KP-RPE lifted out of files: the same biases as in the model that it was trained in, whatever that calls it."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from common.rpe import KeypointRPE, PositionBiasSettings
from common.rpe.stored import find_keypoint_rpe, read_state, square_grid
from common.vit import VisionTransformer

L, H, D, K = 5, 2, 3, 49


def trained(rng, **settings) -> KeypointRPE:
    rpe = KeypointRPE(**({"num_keypoints": L, "num_heads": H, "num_layers": D} | settings))
    for parameter in rpe.parameters():
        nn.init.normal_(parameter, generator=rng)
    return rpe


def vit_state(rpe, place="keypoint_linear", prefix="net.", blocks=D) -> dict[str, torch.Tensor]:
    """A ViT's state dict, as far as it matters; with these names the authors'."""
    state = {f"{prefix}pos_embed": torch.zeros(1, 196, 8), f"{prefix}patch_embed.proj.weight": torch.zeros(8, 3, 8, 8)}
    for number in range(blocks):
        state |= {f"{prefix}blocks.{number}.mlp.fc1.{name}": torch.zeros(4, 8)[..., 0] for name in ("weight", "bias")}
    return state | {f"{prefix}{place}.{name}": value for name, value in rpe.state_dict().items()}


@pytest.mark.parametrize(
    ("prefix", "place"),
    [
        ("net.", "keypoint_linear"),
        ("model.net.", "keypoint_linear"),
        ("", "position_bias.kprpe"),
        ("module.vit.", "rpe"),
    ],
)
def test_layers_are_counted_from_the_blocks_and_biases_are_the_models(rng, prefix, place):
    rpe = trained(rng)
    found = find_keypoint_rpe(vit_state(rpe, place, prefix), L)
    assert (found.num_layers, found.num_heads, found.form) == (D, H, "multihead")
    assert not found.weight.requires_grad
    keypoints = torch.rand(2, L, 2, generator=rng)
    for ours, models in zip(found(keypoints, (3, 4)), rpe(keypoints, (3, 4)), strict=True):
        torch.testing.assert_close(ours, models.detach())


def test_this_projects_vit_gives_its_own(rng):
    vit = VisionTransformer(
        (32, 32),
        embed_dim=8,
        depth=D,
        num_heads=H,
        position_bias=PositionBiasSettings(num_keypoints=L),
        class_token=True,
    )
    nn.init.normal_(vit.position_bias.kprpe.weight, generator=rng)
    found = find_keypoint_rpe(vit.state_dict(), L, extra_tokens=1)
    assert square_grid(vit.state_dict(), extra_tokens=1) == (4, 4)
    keypoints = torch.rand(1, L, 2, generator=rng)
    for ours, models in zip(found(keypoints, (4, 4)), vit.position_bias.kprpe(keypoints, (4, 4)), strict=True):
        torch.testing.assert_close(ours, models.detach())


def test_rows_are_ordered_by_layer_then_head_then_bucket(rng):
    """The authors' linear map, reshaped and chunked as theirs is, at the definition's one entry."""
    linear = nn.Linear(2 * L, D * H * K)
    nn.init.normal_(linear.bias, generator=rng)
    nn.init.zeros_(linear.weight)
    state = {f"net.keypoint_linear.{name}": value for name, value in linear.state_dict().items()}
    biases = find_keypoint_rpe(state, L, num_heads=H)(torch.rand(1, L, 2, generator=rng), (3, 3))
    per_head = linear.bias.view(H * D, K).chunk(D)  # [H, K] for each layer
    own_bucket = K // 2  # offset (0, 0)
    for layer in range(D):
        torch.testing.assert_close(biases[layer][0, :, 4, 4], per_head[layer][:, own_bucket].detach())


@pytest.mark.parametrize("asked", [{"num_heads": H}, {"num_layers": D}, {"num_heads": H, "num_layers": D}])
def test_without_blocks_one_number_gives_the_other(rng, asked):
    found = find_keypoint_rpe(trained(rng).state_dict(), L, **asked)
    assert (found.num_layers, found.num_heads) == (D, H)


@pytest.mark.parametrize(
    "settings",
    [
        {"form": "relative"},
        {"form": "absolute", "method": "cross"},
        {"shared": True},
        {"shared": True, "form": "relative"},
        {"ratio": 1.0, "extra_tokens": 1},
    ],
)
def test_settings_that_a_file_does_not_tell_are_taken_from_the_caller(rng, settings):
    rpe = trained(rng, **settings)
    found = find_keypoint_rpe(vit_state(rpe), L, **settings)
    keypoints = torch.rand(1, L, 2, generator=rng)
    for ours, models in zip(found(keypoints, (2, 3)), rpe(keypoints, (2, 3)), strict=True):
        torch.testing.assert_close(ours[:, :1], models[:, :1].detach())


def test_half_precision_is_read_as_float32(rng):
    rpe = trained(rng).half()
    found = find_keypoint_rpe(rpe.state_dict(), L, num_layers=D)
    assert found.weight.dtype == torch.float32
    torch.testing.assert_close(found.weight, rpe.weight.float())


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"num_heads": 4, "num_layers": D}, r"has 294 rows for 49 buckets, so layers x heads must be 6 .* 4 head"),
        ({"num_heads": 4}, "layers x heads must be 6"),
        ({"num_layers": 4}, "layers x heads must be 6"),
        ({"num_heads": H, "shared": True}, r"so heads must be 6 \(form multihead, shared\); found .* 2 head"),
        ({"num_layers": D, "form": "relative"}, r"so layers must be 6 \(form relative, not shared\); found 3 layer"),
        ({"num_keypoints": 4}, r"a\.pt: no KP-RPE of 4 .* found net\.keypoint_linear\.weight \[294, 10\]"),
        ({"ratio": 1.0}, r"no KP-RPE of 5 keypoints and 25 buckets"),
        ({"name": "net.rpe"}, r"net\.rpe\.weight and net\.rpe\.bias must be .* found nothing and nothing"),
        ({"name": "net.blocks.0.mlp.fc1"}, r"R a multiple of the 49 buckets; found \[4\] and \[4\]"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_an_error(rng, arguments, match):
    state = vit_state(trained(rng))
    with pytest.raises(ValueError, match=match):
        find_keypoint_rpe(state, **({"num_keypoints": L, "source": "a.pt"} | arguments))


def test_nothing_to_count_layers_by_is_an_error(rng):
    with pytest.raises(ValueError, match=r"a\.pt: the file does not tell the number of layers; layers x heads is 6"):
        find_keypoint_rpe(trained(rng).state_dict(), L, source="a.pt")
    with pytest.raises(ValueError, match=r"no KP-RPE .* found nothing like it"):
        find_keypoint_rpe({"fc.weight": torch.zeros(4, 4), "fc.bias": torch.zeros(4)}, L)


def test_of_several_one_must_be_named(rng):
    first, second = trained(rng), trained(rng, num_heads=4, num_layers=1)
    state = vit_state(first) | {f"net.stage.1.kprpe.{name}": value for name, value in second.state_dict().items()}
    with pytest.raises(ValueError, match=r"several .* name one: net\.keypoint_linear, net\.stage\.1\.kprpe"):
        find_keypoint_rpe(state, L)
    found = find_keypoint_rpe(state, L, name="net.stage.1.kprpe", num_layers=1)
    torch.testing.assert_close(found.weight, second.weight.detach())


def test_grids_are_read_from_position_embeddings():
    assert square_grid({"net.pos_embed": torch.zeros(1, 196, 8)}) == (14, 14)
    assert square_grid({"pos_embed": torch.zeros(1, 197, 8)}, extra_tokens=1) == (14, 14)
    assert square_grid({"pos_embed": torch.zeros(1, 197, 8)}) is None
    assert square_grid({"pos_embed": torch.zeros(1, 1, 8)}, extra_tokens=1) is None
    assert square_grid({"weight": torch.zeros(4)}) is None


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"model": s, "iteration": 3}, lambda s: {"state_dict": s}])
def test_checkpoints_give_their_weights(tmp_path, rng, wrap):
    state = vit_state(trained(rng))
    torch.save(wrap(state), tmp_path / "a.pt")
    read = read_state(tmp_path / "a.pt")
    assert read.keys() == state.keys()
    torch.testing.assert_close(read, state)


def test_safetensors_are_read(tmp_path, rng):
    state = {name: value.detach().contiguous() for name, value in vit_state(trained(rng)).items()}
    save_file({name: value.clone() for name, value in state.items()}, tmp_path / "a.safetensors")
    torch.testing.assert_close(read_state(tmp_path / "a.safetensors"), state)


class Harm:
    def __reduce__(self):
        return eval, ("1",)


def test_files_that_are_no_weights_are_errors(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match=r"a\.safetensors: not a safetensors file"):
        read_state(tmp_path / "a.safetensors")
    for name in ("b.safetensors", "b.pt"):
        with pytest.raises(FileNotFoundError, match="b"):
            read_state(tmp_path / name)
    torch.save({"model": {"a": 1}}, tmp_path / "c.pt")
    with pytest.raises(ValueError, match=r"c\.pt: expected named tensors, found a"):
        read_state(tmp_path / "c.pt")
    torch.save({"model": Harm()}, tmp_path / "d.pt")
    with pytest.raises(ValueError, match=r"d\.pt: refused, it holds arbitrary Python objects"):
        read_state(tmp_path / "d.pt")
