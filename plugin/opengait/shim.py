"""The one file that `python -m plugin.install` puts into a checkout of OpenGait, and takes away again.

OpenGait imports every file in opengait/modeling/models and offers each class that it finds there under its name; the
file imports the plugin, which adds its backbones and its paired transform on the way.
"""

import os
from pathlib import Path

from common.runtime.files import write_text
from plugin.opengait.checkout import CheckoutError, check_checkout

__all__ = ["SHIM", "install", "uninstall"]

SHIM = Path("opengait/modeling/models/kprpe_swingait.py")
_MARK = '"""Written by `python -m plugin.install`'

_TEXT = (
    _MARK
    + """, which removes it again with --uninstall: SwinGait with KP-RPE.\"\"\"

import sys

_PLUGIN = {folder!r}
if _PLUGIN not in sys.path:
    sys.path.append(_PLUGIN)

from plugin.opengait.host import SwinGait2D, SwinGait3D  # noqa: E402, F401
"""
)


def _text() -> str:
    return _TEXT.format(folder=os.fspath(Path(__file__).resolve().parents[2]))


def install(root: Path) -> bool:
    """Put the file into a checkout.

    Returns:
        Whether anything changed: a second installation changes nothing.

    Raises:
        CheckoutError: not OpenGait, or a version that differs; or a file of that name that is not ours.
    """
    check_checkout(root)
    path = root / SHIM
    if path.exists():
        found = path.read_text(encoding="utf-8", errors="replace")
        if not found.startswith(_MARK):
            raise CheckoutError(f"{path}: exists and was not written by the plugin; nothing was changed")
        if found == _text():
            return False
    write_text(path, _text())
    return True


def uninstall(root: Path) -> bool:
    """Take the file away, and what Python compiled of it.

    Returns:
        Whether anything changed.

    Raises:
        CheckoutError: not a checkout; or a file of that name that is not ours.
    """
    path = root / SHIM
    if not path.parent.is_dir():
        raise CheckoutError(f"{root}: not a checkout of OpenGait: it has no folder {SHIM.parent}")
    compiled = list((path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"))
    if not path.exists():
        return False
    if not path.read_text(encoding="utf-8", errors="replace").startswith(_MARK):
        raise CheckoutError(f"{path}: was not written by the plugin; nothing was changed")
    path.unlink()
    for file in compiled:
        file.unlink()
    return True
