"""What demos share: a folder of their own, and whether a difference is one."""

import numpy as np
import pytest

from common.runtime.demo import make_room, paired_interval, verdict


def test_interval_of_a_constant_gain_is_that_gain():
    old = np.array([3.0, 50.0, 99.0])
    assert paired_interval(old, old + 2.5) == pytest.approx((2.5, 2.5))


def test_interval_covers_the_normal_one():
    gains = np.random.default_rng(1).normal(1.0, 4.0, 400)
    low, high = paired_interval(np.zeros(400), gains)
    width = 1.96 * gains.std() / 20
    assert (low, high) == pytest.approx((gains.mean() - width, gains.mean() + width), abs=0.08)


@pytest.mark.parametrize(
    ("interval", "said"),
    [((0.1, 2.0), "helps"), ((-2.0, -0.1), "hurts"), ((-0.1, 0.1), "makes no clear difference")],
)
def test_a_gain_is_one_if_its_interval_is_clear_of_zero(interval, said):
    assert verdict(*interval) == said


def test_only_what_a_demo_made_is_removed(tmp_path):
    own, foreign = tmp_path / "own", tmp_path / "foreign"
    make_room(own)
    (own / "left.txt").touch()
    make_room(own)
    assert not (own / "left.txt").exists()
    foreign.mkdir()
    (foreign / "thesis.txt").touch()
    with pytest.raises(ValueError, match=r"foreign exists and was not made by the demo"):
        make_room(foreign)
    assert (foreign / "thesis.txt").exists()
