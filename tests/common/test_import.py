"""`from common import KeypointRPE` is for everyone with a transformer and torch: it must not ask for more."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
HEAVY = ("timm", "kornia", "cv2", "accelerate", "matplotlib", "tensorboard", "sklearn", "torchvision", "plugin", "face")


def test_loads_torch_and_nothing_heavier():
    code = (
        "import sys, numpy, torch\n"
        "before = set(sys.modules)\n"
        "from common import KeypointRPE\n"
        "added = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        f"found = added & {set(HEAVY)!r}\n"
        "assert not found, f'loaded {sorted(found)}'\n"
        "assert KeypointRPE.__module__ == 'common.rpe.keypoint_rpe'\n"
        "ours = added - set(sys.stdlib_module_names)\n"
        "assert ours == {'common'}, f'loaded {sorted(ours)}'\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


def test_everything_it_offers_is_there():
    import common

    assert all(hasattr(common, name) for name in common.__all__)
    biases = common.KeypointRPE(num_keypoints=5, num_heads=8, num_layers=12)
    assert len(common.FIVE_POINT_FACE) == biases.num_keypoints
