"""A trained model as a program that runs without advebm."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option


def export(
    model: Annotated[Path, Argument(help="model that `train` wrote (.safetensors), or its folder")],
    out: Annotated[Path, Option(help="file to write: .onnx, or .pt2 for torch.export.load")],
) -> None:
    """Write a model as ONNX or for torch.export: images in [0, 1], any number, to logits, energy and score. The file also
    holds their shape, the number of classes and the threshold: docs/compare.md."""
    if out.suffix not in (".onnx", ".pt2"):
        raise ValueError(f"--out {out}: must end with .onnx or .pt2")
    from advebm import api
    from advebm import export as programs

    apart = programs.export(api.load(model, device="cpu"), out)
    print(f"wrote {out}; its outputs for random images are the model's within {apart:.1g}")
