"""`import face` is light, and offers what it says."""

import subprocess
import sys
from pathlib import Path

import pytest

import face

ROOT = Path(__file__).parents[2]


def test_loads_nothing():
    code = (
        "import sys, face\n"
        "heavy = {'torch', 'timm', 'numpy', 'cv2', 'plugin'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert set(face.__all__) <= set(dir(face))\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


def test_everything_it_offers_is_there():
    from face.models.pretrained import load_pretrained, save_pretrained
    from face.models.registry import create_model

    assert face.create_model is create_model
    assert face.load_pretrained is load_pretrained
    assert face.save_pretrained is save_pretrained
    with pytest.raises(AttributeError, match="module 'face' has no attribute 'creat_model'"):
        face.creat_model  # noqa: B018
