"""Processes under torchrun on the CPU do what one does, and go on where another number of them stopped."""

import shutil
import signal

import torch
from torch.testing import assert_close

from common.runtime.checkpoint import latest_checkpoint, load_checkpoint
from face.train import main

# SGD: AdamW would turn rounding into steps where a parameter has no gradient to speak of.
SAME = {
    "optimizer": {"type": "SGD", "lr": 0.02},
    "trainer": {"sync_batch_norm": True, "log_steps": 1, "accumulate": 1},
    "data": {"num_workers": 1},
}


def state(output, step):
    """Of a checkpoint: weights of network and classes, and the margin's statistics."""
    folder = output / "tiny" / "checkpoints"
    content = load_checkpoint(folder / f"tiny-{step:05d}.pt")
    shares = [load_checkpoint(folder / name) for name in content["class_shares"]]
    shares.sort(key=lambda share: share["first_class"])
    return content["model"], torch.cat([share["weight"] for share in shares]), shares[0]["margin"], len(shares)


def assert_same(one, two):
    for name, value in one[0].items():
        assert_close(two[0][name], value, rtol=1e-3, atol=2e-4, msg=lambda text, n=name: f"{n}: {text}")
    for name in ("position_bias.kprpe.weight", "position_bias.kprpe.bias"):  # zero in the beginning, and small still
        largest = float(one[0][name].abs().max())
        assert largest > 1e-6
        assert_close(two[0][name], one[0][name], rtol=0, atol=0.02 * largest)
    assert_close(two[1], one[1], rtol=1e-3, atol=1e-5)
    assert_close(two[2], one[2], rtol=1e-4, atol=1e-4)


def test_two_processes_equal_one_and_resume_each_other(config, torchrun):
    config.content["optimizer"] = {}
    path = config.file(SAME)
    single, double = config.folder / "single", config.folder / "double"
    program = torchrun("-m", "face.train", "--cfgs", path, "--output", double)
    assert main(["--cfgs", str(path), "--output", str(single)]) == 0
    out, err = program.finish()
    assert program.returncode == 0, err
    assert "2 process(es), precision fp32" in out, out
    assert out.count("Iteration 00003") == 1  # only the first process writes
    one, two = state(single, 12), state(double, 12)
    assert (one[3], two[3]) == (1, 2)
    assert_same(one, two)

    # One goes on where two were at step 6, and two where one was.
    for source, name in ((double, "one-after-two"), (single, "two-after-one")):
        folder = config.folder / name / "tiny" / "checkpoints"
        folder.mkdir(parents=True)
        for file in (source / "tiny" / "checkpoints").glob("tiny-00006*.pt"):
            shutil.copy(file, folder)
    arguments = ["--cfgs", str(path), "--resume", "--output"]
    program = torchrun("-m", "face.train", *arguments, config.folder / "two-after-one")
    assert main([*arguments, str(config.folder / "one-after-two")]) == 0
    out, err = program.finish()
    assert program.returncode == 0, err
    assert_same(one, state(config.folder / "one-after-two", 12))
    assert_same(one, state(config.folder / "two-after-one", 12))


def test_parts_of_several_processes_make_one_batch(config, plain_model, torchrun):
    """A linear model alone: batch norm and AdaFace's statistics see a part at a time. Two processes go on until a
    signal stops them."""
    config.content["optimizer"], config.content["loss"] = {}, {"margin": {"type": "cosface", "scale": 16.0}}
    config.content["model"] = {"name": plain_model}
    settings = {"optimizer": {"type": "SGD", "lr": 0.5}, "trainer": {"log_steps": 1}, "evaluation": {"sets": []}}
    # The learning rate is the same however many epochs there are.
    path = config.file({**settings, "schedule": {"decay": "step", "milestones": [9999]}})
    single, double = config.folder / "single", config.folder / "double"
    script = config.folder / "plain.py"
    script.write_text(PLAIN)
    program = torchrun(script, "--cfgs", path, "--output", double, "trainer.accumulate=2", "schedule.epochs=10000")
    assert main(["--cfgs", str(path), "--output", str(single)]) == 0
    program.wait_for_line("Iteration 00013")
    program.send(signal.SIGTERM)
    out, err = program.finish()
    assert "--resume goes on from there" in out, err
    assert load_checkpoint(latest_checkpoint(double / "tiny" / "checkpoints", "tiny"))["iteration"] >= 13
    one, two = state(single, 12), state(double, 12)
    assert_close(two[0], one[0], rtol=1e-4, atol=1e-6)
    assert_close(two[1], one[1], rtol=1e-4, atol=1e-7)


PLAIN = """
import sys
from dataclasses import dataclass
from torch import nn
from face.models.base import FaceModel
from face.models.registry import register_model
from face.train import main
@dataclass(frozen=True, kw_only=True)
class Settings:
    pass
class Plain(FaceModel):
    def __init__(self):
        super().__init__()
        self.image_hw, self.num_features = (32, 32), 8
        self.linear = nn.Linear(48, 8)
    def forward(self, images, keypoints=None, visibility=None):
        return self.linear(nn.functional.adaptive_avg_pool2d(images, 4).flatten(1))
register_model("plain", Settings, lambda settings: Plain())
sys.exit(main(sys.argv[1:]))
"""

BREAKING = """
import os, sys
import face.training.trainer as trainer
from face.train import main
real = trainer.PartialFC.forward
def breaking(self, embeddings, *rest):
    loss = real(self, embeddings, *rest)
    if os.environ["RANK"] == "1" and trainer_of[0]._parts.iteration == 2:
        self.weight.register_hook(lambda gradient: gradient * float("inf"))
    return loss
trainer_of = []
begin = trainer._Trainer.__init__
def remember(self, *arguments):
    trainer_of.append(self)
    begin(self, *arguments)
trainer._Trainer.__init__ = remember
trainer.PartialFC.forward = breaking
sys.exit(main(sys.argv[1:]))
"""


def test_a_gradient_that_one_process_alone_sees_broken_is_skipped_by_all(config, torchrun):
    """A share of the classes has gradients of its own."""
    script = config.folder / "breaking.py"
    script.write_text(BREAKING)
    path = config.file({"trainer": {"most_skipped_steps": 1, "log_steps": 1}, "evaluation": {"sets": []}})
    program = torchrun(script, "--cfgs", path, "--output", config.folder / "output")
    out, err = program.finish()
    # The hook stays: step 3 is skipped, and step 4, at which both stop with the same error.
    assert program.returncode != 0
    assert err.count("error: 2 steps in a row had a loss or gradients that are not finite") == 2, err
    assert "Step 3 skipped: its gradients are not finite (1 in a row)" in out
    saved = sorted(path.name for path in (config.folder / "output" / "tiny" / "broken").glob("*.pt"))
    assert saved == ["step-00004-process-0.pt", "step-00004-process-1.pt"]
