"""Two processes under torchrun on the CPU do what one does."""

import signal

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.testing import assert_close

from common.runtime.checkpoint import latest_checkpoint, load_checkpoint
from plugin.__main__ import main

# SGD: AdamW would turn rounding into steps where a parameter has no gradient to speak of. And few steps: the triplet
# loss is a mean over the triplets that are not satisfied, whose number jumps.
SAME = {
    "model_cfg": {"backbone_cfg": {"drop_path_rate": 0.5}},
    "optimizer_cfg": {"solver": "SGD", "lr": 0.01, "momentum": 0.9},
    "trainer_cfg": {"sync_BN": True, "log_iter": 1, "with_test": True, "save_iter": 3, "total_iter": 3},
    "data_cfg": {"num_workers": 1},
}


def run_folder(output):
    return output / "tiny" / "SwinGait2D" / "tiny"


def scalars(output):
    accumulator = EventAccumulator(str(run_folder(output) / "summary"))
    accumulator.Reload()
    return {name: [point.value for point in accumulator.Scalars(name)] for name in accumulator.Tags()["scalars"]}


def test_two_processes_equal_one_and_stop_at_a_signal(config, torchrun):
    path = config.file(SAME)
    single, double = config.folder / "single", config.folder / "double"
    arguments = ("--log_to_file", "trainer_cfg.total_iter=100000")
    program = torchrun("-m", "plugin", "--cfgs", path, "--output", double, *arguments)
    assert main(["--cfgs", str(path), "--output", str(single)]) == 0
    program.wait_for_line("Iteration 00004")
    program.send(signal.SIGTERM)
    out, err = program.finish()
    assert "--resume goes on from there" in out, err
    assert load_checkpoint(latest_checkpoint(run_folder(double) / "checkpoints", "tiny"))["iteration"] >= 4
    assert "2 process(es), precision no" in out, out
    assert out.count("Iteration 00003") == 1  # only the first process writes
    assert len(list((run_folder(double) / "logs").iterdir())) == 1

    one, two = (load_checkpoint(run_folder(output) / "checkpoints" / "tiny-00003.pt") for output in (single, double))
    assert list(one["model"]) == list(two["model"])
    for name in one["model"]:
        assert_close(two["model"][name], one["model"][name], rtol=0, atol=2e-4, msg=lambda text, n=name: f"{n}: {text}")
    assert one["scheduler"] == two["scheduler"]

    alone, shared = scalars(single), scalars(double)
    assert set(alone) == set(shared)
    for name, values in alone.items():
        assert shared[name][: len(values)] == pytest.approx(values, rel=1e-4, abs=1e-5), name


DYING = """
import os, sys
import plugin.runtime.runner as runner
from plugin.__main__ import main
step = runner._Trainer._step
def dying(self, batch):
    if self.iteration == 2 and os.environ["RANK"] == "1":
        DEATH
    return step(self, batch)
runner._Trainer._step = dying
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("death", "said"),
    [
        ('raise RuntimeError("this process has had enough")', "this process has had enough"),
        ("os.kill(os.getpid(), 9)", "Signal 9 (SIGKILL)"),
    ],
)
def test_process_that_dies_ends_the_run_with_its_error(death, said, config, torchrun):
    script = config.folder / "dying.py"
    script.write_text(DYING.replace("DEATH", death))
    path = config.file({"trainer_cfg": {"total_iter": 100_000}})
    program = torchrun(script, "--cfgs", path, "--output", config.folder / "output")
    _, err = program.finish()
    assert program.returncode != 0
    assert said in err
