"""`python -m face.export`: a face model as an ONNX file, checked against PyTorch.

python -m face.export --weights FOLDER --out model.onnx
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["main"]

_DESCRIPTION = """Write a face model as an ONNX file: images [B, 3, h, w], RGB in [-1, 1], and, where the model needs
them, keypoints [B, L, 2], (x, y) as fractions of the image, to embeddings [B, E], not normalised. The file is compared
with the model in onnxruntime before it is there. Needs the packages onnx, onnxscript and onnxruntime."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code: 0, or 2 for wrong input."""
    args = _parser().parse_args(argv)
    from face.models.export import export_onnx
    from face.models.pretrained import load_pretrained

    try:
        model = load_pretrained(args.weights, name=args.name, colour_order=args.colour_order)
        difference = export_onnx(model, args.out, batch=args.batch, visibility=args.visibility)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:  # of the exporter, in many lines
        print(f"error: {args.weights}: torch cannot export it: {str(error).strip().splitlines()[0]}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    assert model.origin is not None
    print(
        f"{args.out}: {model.config.name} of {model.origin.source} (weights of {model.origin.colour_order}, the file "
        f"takes RGB), within {difference:.1e} of PyTorch"
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m face.export", description=_DESCRIPTION, allow_abbrev=False)
    parser.add_argument("--weights", required=True, metavar="PATH", help="what face.load_pretrained takes")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the ONNX file")
    parser.add_argument("--batch", type=_batch, default="dynamic", metavar="N", help="images a batch (default: any)")
    parser.add_argument("--visibility", action="store_true", help="a third input, how far each keypoint counts")
    parser.add_argument("--name", help="the registered model, where weights do not tell")
    parser.add_argument("--colour-order", choices=("RGB", "BGR"), help="of the weights, where they do not tell")
    return parser


def _batch(text: str) -> int | str:
    return text if text == "dynamic" else int(text)


if __name__ == "__main__":
    sys.exit(main())
