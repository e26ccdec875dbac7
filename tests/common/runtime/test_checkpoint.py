"""Checkpoints survive kills, refuse foreign objects and damage, and restore with a full account."""

import os
import pickle
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from common.runtime.checkpoint import (
    CheckpointError,
    checkpoint_path,
    latest_checkpoint,
    load_checkpoint,
    load_weights,
    save_checkpoint,
)

ROOT = Path(__file__).parents[3]


class Payload:
    """Something that unpickling would have to import."""


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def same_state(first, second) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def fill(module, value):
    return {name: torch.full_like(entry, value) for name, entry in module.state_dict().items()}


def test_round_trip_of_a_whole_training_state(tmp_path):
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 2, 5])
    model(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    scheduler.step()
    path = checkpoint_path(tmp_path / "new" / "checkpoints", "run", 8)
    contents = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    save_checkpoint(path, {key: value.state_dict() for key, value in contents.items()} | {"iteration": 8})
    loaded = load_checkpoint(path)
    assert path.name == "run-00008.pt"
    assert loaded["iteration"] == 8
    assert same_state(loaded["model"], model.state_dict())
    assert loaded["scheduler"] == scheduler.state_dict()
    torch.testing.assert_close(loaded["optimizer"]["state"], optimizer.state_dict()["state"], rtol=0, atol=0)
    assert os.listdir(path.parent) == [path.name]


def test_names_are_opengaits(tmp_path):
    assert latest_checkpoint(tmp_path / "absent", "run") is None
    for name in ("run-00008.pt", "run-00100.pt", "run-120000.pt", "run-b-999999.pt", "run-200.pt", "run-300000.txt"):
        (tmp_path / name).touch()
    assert latest_checkpoint(tmp_path, "run") == checkpoint_path(tmp_path, "run", 120000)
    assert latest_checkpoint(tmp_path, "run-b") == tmp_path / "run-b-999999.pt"
    assert latest_checkpoint(tmp_path, "r.n") is None
    with pytest.raises(ValueError, match="iteration must be >= 0, got -1"):
        checkpoint_path(tmp_path, "run", -1)


@pytest.mark.parametrize("broken", ["torch.save", "os.fsync", "os.replace"])
def test_failure_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch, broken):
    path = tmp_path / "run-00001.pt"
    save_checkpoint(path, {"iteration": 1})

    def fail(*args):
        raise OSError("No space left on device")

    monkeypatch.setattr(broken, fail)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(path, {"iteration": 2})
    assert load_checkpoint(path) == {"iteration": 1}
    assert os.listdir(tmp_path) == [path.name]


def test_contents_that_could_not_be_read_back_are_refused_before_the_old_file_goes(tmp_path):
    path = tmp_path / "run-00001.pt"
    save_checkpoint(path, {"iteration": 1})
    with pytest.raises(CheckpointError, match=r"run-00001\.pt: refused, .* \(\S*Payload\)"):
        save_checkpoint(path, {"iteration": 2, "settings": Payload()})
    assert load_checkpoint(path) == {"iteration": 1}
    assert os.listdir(tmp_path) == [path.name]


def test_older_leftovers_of_the_same_target_go(tmp_path):
    path = tmp_path / "run-00001.pt"
    names = ["run-00001.pt.17-3.tmp", "run-00001.pt.18-4.tmp", "run-00002.pt.17-3.tmp", "run-00001.pt.old.tmp"]
    for name in names:
        (tmp_path / name).touch()
    os.utime(tmp_path / names[0], (0, 0))
    os.utime(tmp_path / names[1], (time.time() + 1000,) * 2)  # somebody is still writing
    os.utime(tmp_path / names[2], (0, 0))
    os.utime(tmp_path / names[3], (0, 0))
    save_checkpoint(path, {})
    assert sorted(os.listdir(tmp_path)) == sorted([path.name, *names[1:]])


WRITER = """
import sys, torch
from pathlib import Path
from common.runtime.checkpoint import save_checkpoint
torch.set_num_threads(1)
for iteration in range(10**6):
    save_checkpoint(sys.argv[1], {"iteration": iteration, "model": {"w": torch.full((500_000,), float(iteration))}})
"""

DYING_WRITER = """
import os, signal, sys, torch
from common.runtime.checkpoint import save_checkpoint
save_checkpoint(sys.argv[1], {"iteration": 1})
def half(contents, stream):
    stream.write(b"PK" * 1000)
    stream.flush()
    os.kill(os.getpid(), signal.SIGKILL)
torch.save = half
save_checkpoint(sys.argv[1], {"iteration": 2})
"""


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_a_writer_killed_at_any_moment_leaves_a_whole_checkpoint(tmp_path, start_program):
    path = tmp_path / "run-00001.pt"
    writer = start_program(sys.executable, "-c", WRITER, path)
    writer.wait_until(path.exists)
    for _ in range(10):  # whole also while it is being replaced
        loaded = load_checkpoint(path)
        assert torch.all(loaded["model"]["w"] == loaded["iteration"])
    writer.send(signal.SIGKILL)
    writer.finish()
    last = load_checkpoint(path)
    assert torch.all(last["model"]["w"] == last["iteration"])
    save_checkpoint(path, {"iteration": -1})
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_a_writer_killed_half_way_through_the_bytes(tmp_path, start_program):
    path = tmp_path / "run-00001.pt"
    writer = start_program(sys.executable, "-c", DYING_WRITER, path)
    _, err = writer.finish()
    assert writer.returncode == -signal.SIGKILL, err
    assert len(os.listdir(tmp_path)) == 2
    assert load_checkpoint(path) == {"iteration": 1}
    assert latest_checkpoint(tmp_path, "run") == path
    save_checkpoint(path, {"iteration": 2})
    assert os.listdir(tmp_path) == [path.name]


def test_missing_file_lists_what_is_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such checkpoint; beside it: no \.pt file"):
        load_checkpoint(tmp_path / "none" / "run-00001.pt")
    for iteration in range(1, 13):
        checkpoint_path(tmp_path, "run", iteration).touch()
    with pytest.raises(FileNotFoundError, match=r"run-00003.pt, .*run-00012.pt and 2 earlier"):
        load_checkpoint(tmp_path / "run-00020.pt")


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("kept", [0, 10, 0.5, -30])
def test_cut_short(tmp_path, legacy, kept):
    path = tmp_path / "cut.pt"
    torch.save({"w": torch.randn(1000)}, path, _use_new_zipfile_serialization=not legacy)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept) if isinstance(kept, float) else kept])
    with pytest.raises(CheckpointError, match=r"cut\.pt: (cannot be read|not a PyTorch checkpoint)"):
        load_checkpoint(path)


def test_one_wrong_byte_in_a_tensor_is_noticed(tmp_path):
    path = tmp_path / "flipped.pt"
    save_checkpoint(path, {"w": torch.zeros(10_000)})
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match=r"flipped\.pt: damaged, the checksum of \S*data/0 is wrong"):
        load_checkpoint(path)


def test_files_written_without_checksums_load(tmp_path):
    path = tmp_path / "plain.pt"
    before = torch.serialization.get_crc32_options()
    try:
        torch.serialization.set_crc32_options(False)
        torch.save({"w": torch.ones(5)}, path)
    finally:
        torch.serialization.set_crc32_options(before)
    assert torch.equal(load_checkpoint(path)["w"], torch.ones(5))


def test_foreign_objects_and_other_files_are_refused(tmp_path):
    path = tmp_path / "a.pt"
    for legacy in (False, True):
        torch.save({"model": Payload()}, path, _use_new_zipfile_serialization=not legacy)
        with pytest.raises(CheckpointError, match=r"a\.pt: refused, it holds arbitrary Python objects \(\S*Payload\)"):
            load_checkpoint(path)
    path.write_bytes(pickle.dumps(Payload(), protocol=2))
    with pytest.raises(CheckpointError, match=r"a\.pt: refused"):
        load_checkpoint(path)
    path.write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(CheckpointError, match=r"a\.pt: not a PyTorch checkpoint, or damaged"):
        load_checkpoint(path)
    torch.save([torch.zeros(1)], path)
    with pytest.raises(CheckpointError, match=r"a\.pt: expected a dict, found list"):
        load_checkpoint(path)
    with pytest.raises(CheckpointError, match="a folder"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_fitting_state_is_restored_with_or_without_the_ddp_prefix(prefix):
    source, target = network(), network()
    state = {prefix + name: value for name, value in source.state_dict().items()}
    before = dict(state)
    report = load_weights(target, state, strict=True, source="a.pt")
    assert same_state(source.state_dict(), target.state_dict())
    assert report.restored == tuple(source.state_dict())
    assert report.missing == report.unexpected == report.mismatched == ()
    assert state == before


def test_a_prefix_that_is_the_modules_own_stays():
    target = nn.ModuleDict({"module": nn.Linear(2, 2)})
    assert len(load_weights(target, target.state_dict(), strict=True, source="a.pt").restored) == 2


def misfit(model):
    state = fill(model, 1)
    del state["0.bias"], state["1.running_mean"]
    state |= {"0.weight": torch.ones(4, 5), "2.bias": "text", "head.a": torch.ones(1), "head.b": torch.ones(1)}
    return state


def test_strict_lists_everything_and_changes_nothing():
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_weights(model, misfit(model), strict=True, source="a.pt")
    assert str(caught.value).splitlines() == [
        "a.pt: does not fit the model; nothing was restored",
        "  missing (2):",
        "    0.bias",
        "    1.running_mean",
        "  unexpected (2):",
        "    head.a",
        "    head.b",
        "  mismatched (2):",
        "    0.weight: expected [4, 3], found [4, 5]",
        "    2.bias: expected [2], found str",
    ]
    assert same_state(before, model.state_dict())


def test_not_strict_restores_what_fits_and_reports_the_rest():
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = load_weights(model, misfit(model), strict=False, source="a.pt")
    fitting = {"1.weight", "1.bias", "1.running_var", "1.num_batches_tracked", "2.weight"}
    assert set(report.restored) == fitting
    for name, value in model.state_dict().items():
        assert torch.equal(value, torch.ones_like(value) if name in fitting else before[name])
    first, second, *_ = text = str(report).splitlines()
    assert (first, second) == ("a.pt: restored 5 entries", "  restored (5):")
    assert {line.strip() for line in text[2:7]} == fitting
    assert text[7] == "  missing (2):"


def test_nothing_that_fits_is_an_error_even_if_not_strict():
    with pytest.raises(CheckpointError, match="holds nothing that fits the model"):
        load_weights(network(), {"x": torch.ones(1)}, strict=False, source="a.pt")


def test_translate_renames_after_the_prefix_is_gone():
    source, target = network(), network()
    state = {f"module.net.{name}": value for name, value in source.state_dict().items()}

    def translate(entries):
        return {name.removeprefix("net."): value for name, value in entries.items()}

    load_weights(target, state, strict=True, source="a.pt", translate=translate)
    assert same_state(source.state_dict(), target.state_dict())
    assert all(name.startswith("module.net.") for name in state)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 1"), "is the disk full"),
        (OSError(28, "No space left on device"), "cannot be written: No space left on device"),
    ],
)
def test_a_full_disk_is_said_with_the_file(tmp_path, monkeypatch, error, said):
    def fail(contents, stream):
        stream.write(b"half")
        raise error

    path = tmp_path / "a.pt"
    save_checkpoint(path, {"value": 1})
    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match=said) as caught:
        save_checkpoint(path, {"value": 2})
    assert str(path) in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["a.pt"]
    monkeypatch.undo()
    assert load_checkpoint(path) == {"value": 1}
