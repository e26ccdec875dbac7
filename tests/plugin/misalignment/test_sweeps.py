"""Sweeps: the strengths asked for, each condition once, and what a model without joints meets of it."""

import pytest

from plugin.conditions import TestCondition
from plugin.misalignment.sweeps import SWEEPS, all_conditions, as_met, describe

NOISE, LOSS = (0, 1, 2, 4, 8), (0, 10, 25, 50, 75, 100)


def test_strengths():
    expected = [(crop, 0, 0) for crop in (0, 5, 10, 15, 20, 30)]
    expected += [(crop, noise, 0) for crop in (0, 15) for noise in NOISE]
    expected += [(crop, 0, loss) for crop in (0, 15) for loss in LOSS]
    conditions = all_conditions(SWEEPS)
    percent = [
        tuple(round(100 * share, 9) for share in (each.misalign, each.joint_noise, each.joint_loss))
        for each in conditions
    ]
    assert len(percent) == len(set(percent)) == len({each.name for each in conditions})
    assert set(percent) == set(expected)


@pytest.mark.parametrize("sweep", SWEEPS, ids=lambda sweep: sweep.title)
def test_only_one_thing_varies(sweep):
    conditions = sweep.conditions()
    for name in ("misalign", "joint_noise", "joint_loss"):
        values = [getattr(condition, name) for condition in conditions]
        expected = list(sweep.strengths) if name == sweep.varied else [getattr(sweep.base, name)] * len(values)
        assert values == expected


def test_models_without_joints_meet_the_crops_alone():
    hard = TestCondition(misalign=0.15, joint_noise=0.04, joint_loss=0.5)
    assert as_met(hard, takes_joints=True) == hard
    assert as_met(hard, takes_joints=False) == TestCondition(misalign=0.15)


def test_words():
    assert describe(TestCondition()) == "clean"
    assert describe(TestCondition(misalign=0.15, joint_loss=1)) == "crops misaligned 15 %, joints lost 100 %"
    assert describe(TestCondition(joint_noise=0.01)) == "joint noise 1 %"
