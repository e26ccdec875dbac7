"""Embeddings of folders: the very ones of a test, raw sequences as prepared ones, files whole and without pickles."""

import shutil

import cv2
import numpy as np
import pytest
import torch

from common.runtime.arrays import load_array, save_array
from common.runtime.checkpoint import save_checkpoint
from common.runtime.settings import to_mapping
from plugin.embed import main
from plugin.embeddings import load_embeddings, require_same_model, save_embeddings
from plugin.evaluation import Protocol
from plugin.inference import embed_sequences, load_model, model_fingerprint, pick_device
from plugin.runtime.host import MODELS
from plugin.runtime.runner import RunOptions
from plugin.runtime.runner import test as run_test
from plugin.sequences import find_sequence_folders, open_sequence
from plugin.transforms import PairedCompose

POSE = "96,128," + ",".join(f"{20 + 3 * joint},{7 * joint + 4},0.9" for joint in range(17))


def save_model(settings, path, seed=0):
    """A model whose KP-RPE is not zero, so that joints matter."""
    torch.manual_seed(seed)
    model = MODELS[settings.model_cfg.model](to_mapping(settings), False, None)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "position_bias" in name:
                value.normal_(std=0.5)
    save_checkpoint(path, {"model": model.state_dict(), "iteration": 4})
    return path


@pytest.fixture
def weights(config, tmp_path):
    return save_model(config.settings(), tmp_path / "tiny-00004.pt")


@pytest.fixture
def raw(tmp_path):
    """A folder of five silhouettes with poses, one of each missing its partner."""
    folder = tmp_path / "walk"
    folder.mkdir()
    for number in range(5):
        image = np.zeros((128, 96), np.uint8)
        cv2.ellipse(image, (40 + 4 * number, 64), (14, 50), 0, 0, 360, 255, cv2.FILLED)
        if number != 1:
            cv2.imwrite(str(folder / f"human_crop_f{number + 8}.png"), image)
        if number != 3:
            (folder / f"human_crop_f{number + 8}.txt").write_text(POSE)
    return folder


def run(config, weights, data, out, *more):
    return main(["--cfgs", str(config.file()), "--weights", str(weights), "--data", str(data), "--out", str(out),
                 "--device", "cpu", *map(str, more)])  # fmt: skip


def test_is_what_a_test_of_the_run_compares(config, prepared, weights, tmp_path, capsys):
    out = tmp_path / "test.npz"
    assert run(config, weights, prepared.root, out, "--partition", prepared.partition) == 0
    assert "embeddings of 9 sequences, [9, 8, 6]" in capsys.readouterr().out
    found = load_embeddings(out)
    assert found.names[0] == "0006-camid0_videoid1-seq0"
    assert found.folders[0] == "0006/camid0_videoid1/seq0"
    settings = config.settings({"evaluator_cfg": {"restore_hint": str(weights)}})
    expected = run_test(settings, RunOptions(output=tmp_path / "output")).metrics
    probes = {name for name in found.names if name.endswith("camid0_videoid1-seq0")}
    with pytest.warns(UserWarning, match="the gallery has 6"):
        result = Protocol("evaluate_Gait3D", "tiny", probes).evaluate(
            found.embeddings, found.labels, found.types, found.views
        )
    assert result.metrics == expected


def test_batches_do_not_change_embeddings(config, prepared, weights):
    settings = config.settings()
    model, device = load_model(settings, weights), torch.device("cpu")
    sequences = find_sequence_folders(prepared.root, ["0001", "0002"])
    found = embed_sequences(model, settings, sequences, device)
    compose = PairedCompose(settings.evaluator_cfg.transform[0].trf_cfg)
    for sequence, embedding in zip(sequences, found, strict=True):
        silhouettes, joints = compose(*sequence.read(), seed=0)
        streams = [torch.from_numpy(silhouettes)[None], torch.from_numpy(joints)[None]]
        out = model((streams, torch.zeros(1, dtype=torch.long), None, None, None))
        np.testing.assert_allclose(embedding, out["inference_feat"]["embeddings"][0].detach(), rtol=0, atol=1e-5)


def test_roles_are_those_of_the_protocol(config, prepared, weights, tmp_path):
    for role, count in (("probe", 3), ("gallery", 6)):
        out = tmp_path / f"{role}.npz"
        assert run(config, weights, prepared.root, out, "--partition", prepared.partition, "--role", role) == 0
        found = load_embeddings(out)
        assert len(found.names) == count
        assert {view for view, kind in zip(found.views, found.types, strict=True) if kind == "camid1_videoid2"} == (
            {"seq0"} if role == "gallery" else set()
        )


def test_raw_frames_go_through_the_preparation(raw):
    sequence = open_sequence(raw)
    assert sequence is not None
    assert (sequence.kind, sequence.name, sequence.label) == ("raw", str(raw.resolve()), "")
    silhouettes, keypoints = sequence.read()
    assert silhouettes.shape == (3, 64, 64)  # frames 8, 10 and 12 have both
    rows = np.nonzero(cv2.imread(str(raw / "human_crop_f8.png"), cv2.IMREAD_GRAYSCALE))[0]
    scale = 64 / (rows.max() - rows.min() + 1)
    expected = (4 + 7 * np.arange(17) - rows.min() + 0.5) * scale - 0.5
    np.testing.assert_allclose(keypoints[0, :, 1], expected, atol=1e-4)
    assert (keypoints[..., 2] == np.float32(0.9)).all()


def test_without_poses_no_joint_is_seen_and_the_model_runs(config, weights, raw, tmp_path):
    for text in raw.glob("*.txt"):
        text.unlink()
    sequence = open_sequence(raw)
    assert sequence is not None
    silhouettes, keypoints = sequence.read()
    assert silhouettes.shape == (4, 64, 64)
    assert not keypoints.any()
    out = tmp_path / "raw.npz"
    assert run(config, weights, raw, out) == 0
    found = load_embeddings(out)
    assert found.embeddings.shape == (1, 8, 6)
    assert found.folders == (".",)


def test_joints_matter_to_a_model_with_kprpe(config, own_data, weights):
    settings = config.settings()
    model = load_model(settings, weights)
    sequence = open_sequence(own_data.folder("0001"))
    assert sequence is not None
    whole = embed_sequences(model, settings, [sequence], torch.device("cpu"))
    own_data.keypoints("0001").unlink()
    without = embed_sequences(model, settings, [sequence], torch.device("cpu"))
    assert np.abs(whole - without).max() > 1e-4


def test_identity_of_a_raw_data_set_is_its_folders(raw, tmp_path):
    place = tmp_path / "set" / "0042" / "cam1" / "seq0"
    shutil.copytree(raw, place)
    (sequence,) = find_sequence_folders(tmp_path / "set")
    assert (sequence.name, sequence.label) == ("0042-cam1-seq0", "0042")
    (alone,) = find_sequence_folders(place)
    assert (alone.name, alone.label) == (str(place.resolve()), "")


def test_fingerprint_tells_weights_settings_and_transforms_apart(config, weights, tmp_path):
    settings = config.settings()
    model = load_model(settings, weights)
    same = model_fingerprint(settings, load_model(settings, weights))
    assert model_fingerprint(settings, model) == same
    other = load_model(settings, save_model(settings, tmp_path / "other.pt", seed=1))
    changed = config.settings({"model_cfg": {"backbone_cfg": {"min_confidence": 0.3}}})
    cut = config.settings({"evaluator_cfg": {"transform": [{"type": "PairedCompose", "trf_cfg": []}]}})
    found = {same, model_fingerprint(settings, other)} | {model_fingerprint(new, model) for new in (changed, cut)}
    assert len(found) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "x.txt"], "--out x.txt: expected a name that ends in .npz"),
        (["--data", "nowhere"], "nowhere: no such folder"),
        (["--role", "probe"], "--role probe needs --partition"),
        (["--device", "abacus"], "--device abacus: "),
        (["--weights", "nothing.pt"], "nothing.pt: no such checkpoint"),
        (["--partition", "nothing.json"], "nothing.json: partition cannot be read"),
    ],
)
def test_wrong_input(config, prepared, weights, tmp_path, capsys, arguments, message):
    assert run(config, weights, prepared.root, tmp_path / "out.npz", *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert not (tmp_path / "out.npz").exists()


def test_unusable_sequences_are_named_before_anything_is_embedded(config, own_data, weights, tmp_path, capsys):
    save_array(own_data.keypoints("0001"), np.zeros((2, 17, 3), np.float32))
    own_data.silhouettes("0002").write_bytes(b"nonsense")
    assert run(config, weights, own_data.root, tmp_path / "out.npz") == 2
    error = capsys.readouterr().err
    assert "2 of 24 sequences cannot be used" in error
    assert f"{own_data.keypoints('0001')}: expected keypoints, float [" in error
    assert f"{own_data.silhouettes('0002')}: not a whole pickled NumPy array" in error


def test_raw_sequence_without_a_usable_frame(config, weights, raw, tmp_path, capsys):
    for picture in raw.glob("*.png"):
        cv2.imwrite(str(picture), np.zeros((20, 10), np.uint8))
    assert run(config, weights, raw, tmp_path / "out.npz") == 2
    error = capsys.readouterr().err
    assert f"{raw}: no usable frame among 4 numbered .png files (3 empty_silhouette, 1 no_pose)" in error


def test_folder_without_sequences(tmp_path):
    with pytest.raises(ValueError, match=r"no sequence found: expected folders with 0-silhouettes.pkl or .png files"):
        find_sequence_folders(tmp_path)


def test_equal_names_are_refused(config, own_data, weights, tmp_path, capsys):
    shutil.copytree(own_data.root / "0001", own_data.root / "again" / "0001")
    assert run(config, weights, own_data.root, tmp_path / "out.npz") == 2
    assert "3 sequence(s) have the name of another one" in capsys.readouterr().err


@pytest.fixture
def file(config, prepared, weights, tmp_path):
    path = tmp_path / "good.npz"
    assert run(config, weights, prepared.root / "0001", path) == 0
    return path


def test_file_holds_no_pickle_and_comes_back(file, tmp_path):
    found = load_embeddings(file)
    assert found.labels == ("0001",) * 3
    with np.load(file, allow_pickle=False) as arrays:
        assert {arrays[name].dtype.kind for name in arrays.files} == {"f", "U"}
    copy = tmp_path / "copy.npz"
    save_embeddings(copy, found)
    assert np.array_equal(load_embeddings(copy).embeddings, found.embeddings)
    assert load_embeddings(copy).fingerprint == found.fingerprint


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"names": None}, "it lacks names; found embeddings"),
        ({"embeddings": np.zeros((3, 4))}, r"embeddings must be float32 \[n, c, p\], found float64 \[3, 4\]"),
        ({"labels": np.array(["a"])}, r"labels must be strings of shape \[3\], found <U1 \[1\]"),
        ({"embeddings": np.full((3, 2, 1), np.nan, np.float32)}, "must be finite"),
        ({"metric": np.array("l1")}, "metric must be one of euc, cos, found 'l1'"),
        ({"names": np.array(["a", "a", "b"])}, "names must be distinct, found 3, 2 of them"),
        ({"labels": np.array([{}, {}, {}])}, "Object arrays cannot be loaded"),
    ],
)
def test_damaged_files_are_refused(file, tmp_path, change, match):
    with np.load(file) as arrays:
        content = dict(arrays) | change
    bad = tmp_path / "bad.npz"
    np.savez(bad, **{name: value for name, value in content.items() if value is not None})
    with pytest.raises(ValueError, match=match) as error:
        load_embeddings(bad)
    assert str(error.value).startswith(str(bad))


def test_what_is_no_file_of_embeddings(file, tmp_path):
    cut = tmp_path / "cut.npz"
    cut.write_bytes(file.read_bytes()[:300])
    with pytest.raises(ValueError, match="not a file of embeddings"):
        load_embeddings(cut)
    with cut.open("wb") as stream:
        np.save(stream, np.zeros(3))
    with pytest.raises(ValueError, match="not a file of embeddings"):
        load_embeddings(cut)
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_embeddings(tmp_path / "none.npz")
    with pytest.raises(ValueError, match=r"must end in \.npz"):
        load_embeddings(tmp_path / "none.pkl")


def test_models_are_not_mixed(file, config, prepared, tmp_path):
    other = tmp_path / "other.npz"
    assert run(config, save_model(config.settings(), tmp_path / "b.pt", seed=1), prepared.root / "0001", other) == 0
    with pytest.raises(ValueError, match=r"different models cannot be compared:\n  a: model .*\n  b: model"):
        require_same_model({"a": load_embeddings(file), "b": load_embeddings(other)})


def test_device_by_name():
    assert pick_device("cpu") == torch.device("cpu")


def test_prepared_arrays_are_read_as_they_are(prepared):
    sequence = open_sequence(prepared.folder("0003"))
    assert sequence is not None
    silhouettes, keypoints = sequence.read()
    assert np.array_equal(silhouettes, load_array(prepared.silhouettes("0003")))
    assert np.array_equal(keypoints, load_array(prepared.keypoints("0003")))
