"""The command line on the data that it makes itself."""

import json
import os
from pathlib import Path

from plugin.misalignment import cli
from plugin.misalignment.sweeps import Sweep

SWEEP = Sweep(title="crops", axis="shift", varied="misalign", strengths=(0.0, 0.2))


def test_walkers(tmp_path, capsys, monkeypatch):
    """The default data, from nothing: made once, and their number is one of the settings."""
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # no pool of processes for a few walkers
    tiny = {
        "data_cfg.num_workers": 0,
        "trainer_cfg.total_iter": 1,
        "trainer_cfg.sampler.batch_size": [2, 2],
        "trainer_cfg.sampler.frames_num_fixed": 2,
        "evaluator_cfg.sampler.frames_all_limit": 2,
    }
    configs = [
        str(Path(__file__).parents[3] / "configs" / "demo" / f"{name}.yaml")
        for name in ("swingait2d", "swingait2d_kprpe")
    ]
    out = tmp_path / "out"

    def run(subjects):
        more = [f"{key}={value}" for key, value in tiny.items()]
        return cli.main(
            ["--out", str(out), "--cfgs", *configs, "--seeds", "0", "--subjects", str(subjects), *more], [SWEEP]
        )

    assert run(5) == 0
    assert len(json.loads((out / "results.json").read_text())["runs"]) == 2 * len(SWEEP.strengths)
    assert "say nothing about accuracy on people" in (out / "table.md").read_text()
    assert len(json.loads((out / "raw" / "partition.json").read_text())["PROBE_SET"]) == 2 * 3
    capsys.readouterr()
    assert run(6) == 2
    assert "data.walkers.subjects was 5, now 6" in capsys.readouterr().err
