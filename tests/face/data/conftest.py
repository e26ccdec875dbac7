"""Encoded images and RecordIO folders, composed byte by byte from the format's definition."""

import struct

import cv2
import numpy as np
import pytest


def _encode(number, suffix=".jpg", hw=(12, 10)):
    """A small image whose every pixel is of one colour, told by the number."""
    colour = (37 * number % 256, 91 * number % 256, 151 * number % 256)
    image = np.full((*hw, 3), colour, np.uint8)
    return cv2.imencode(suffix, image[..., ::-1])[1].tobytes()


def _image_payload(label, key, image):
    return struct.pack("<IfQQ", 0, label, key, 0) + image


def _list_payload(labels, key, image=b""):
    return struct.pack("<IfQQ", len(labels), 0.0, key, 0) + struct.pack(f"<{len(labels)}f", *labels) + image


def _compose(folder, payloads, keys=None, property_line=None):
    """`train.rec` and `train.idx` of whole records, one a payload; returns their offsets."""
    folder.mkdir(parents=True, exist_ok=True)
    content, offsets = b"", []
    for payload in payloads:
        offsets.append(len(content))
        content += struct.pack("<II", 0xCED7230A, len(payload)) + payload + b"\0" * (-len(payload) % 4)
    keys = range(len(payloads)) if keys is None else keys
    (folder / "train.rec").write_bytes(content)
    (folder / "train.idx").write_text("".join(f"{key}\t{at}\n" for key, at in zip(keys, offsets, strict=True)))
    if property_line is not None:
        (folder / "property").write_text(property_line + "\n")
    return offsets


@pytest.fixture(scope="session")
def encode():
    return _encode


@pytest.fixture(scope="session")
def image_payload():
    return _image_payload


@pytest.fixture(scope="session")
def list_payload():
    return _list_payload


@pytest.fixture(scope="session")
def compose():
    return _compose


@pytest.fixture
def cvlface_set(tmp_path):
    """Seven images of classes 0, 0, 1, 2, 2, 2, 3, keys from 0 on."""
    labels = [0, 0, 1, 2, 2, 2, 3]
    _compose(tmp_path / "set", [_image_payload(label, key, _encode(key)) for key, label in enumerate(labels)])
    return tmp_path / "set"


@pytest.fixture
def face_folder(tmp_path):
    """Identities a2, a10, b with 2, 1 and 3 images, one of them in a subfolder."""
    root = tmp_path / "faces"
    names = ["a2/img2.jpg", "a2/img10.png", "a10/x.JPG", "b/0.bmp", "b/1.webp", "b/more/5.jpeg"]
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_encode(number, path.suffix.lower()))
    return root, names
