"""Trained models as programs that run without advebm: ONNX and torch.export."""

import io
import json
import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from advebm.api import Model
from advebm.energy import SCORES, marginal
from advebm.networks import Flow
from advebm.runtime import disk

OUTPUTS = ("logits", "energy", "score")
ABOUT = "advebm.json"  # the file within a .pt2 that holds what `described` returns
CLOSE = 1.0e-4  # outputs that differ by at most this, or this part of them, are the same


class Program(nn.Module):
    """Images (B, C, H, W) in [0, 1] -> logits (B, K), energy E(x) (B,), and the score (B,) by which the model detects."""

    def __init__(self, model: Model):
        super().__init__()
        self.net, self.detector = model.net, SCORES[model.about["detector"]]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = self.net(images)
        return logits, marginal(lambda _: logits)(images), -self.detector(lambda _: logits)(images)


def described(model: Model) -> dict[str, Any]:
    """What a user of the program must know: a score of at least the threshold is in-distribution."""
    facts = {"shape": model.shape, "range": [0, 1], "classes": model.classes if model.classifies else None}
    return facts | {"threshold": model.threshold, **{key: model.about[key] for key in ("detector", "method", "study")}}


def export(model: Model, out: Path) -> float:
    """Write a program for any number of images, as .onnx or as .pt2 for torch.export.load, with its description; returns by
    how much its outputs for random images differ from the model's, at most. Raises ValueError for a flow."""
    if isinstance(model.net, Flow):
        raise ValueError(f"{model.file}: is a flow, whose code cannot be exported; advebm.load runs it")
    write, run = {".onnx": (_onnx, _run_onnx), ".pt2": (_pt2, _run_pt2)}[out.suffix]
    program = Program(model).eval()
    x = torch.rand(5, *model.shape, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the inside of torch.export
        exported = torch.export.export(program, (x[:2],), dynamic_shapes=({0: torch.export.Dim("n")},))
        content = write(exported, described(model))
    apart = 0.0
    for part in (x, x[:1]):
        for name, ours, theirs in zip(OUTPUTS, program(part), run(content, part), strict=True):
            assert torch.allclose(ours, theirs, rtol=CLOSE, atol=CLOSE), f"the exported {name} are not the model's"
            apart = max(apart, (ours - theirs).abs().max().item())
    out.parent.mkdir(parents=True, exist_ok=True)
    disk.write(out, content)
    return apart


def _pt2(exported: torch.export.ExportedProgram, about: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    torch.export.save(exported, file, extra_files={ABOUT: json.dumps(about)})
    return file.getvalue()


def _run_pt2(content: bytes, x: Tensor) -> tuple[Tensor, ...]:
    return torch.export.load(io.BytesIO(content)).module()(x)


def _onnx(exported: torch.export.ExportedProgram, about: dict[str, Any]) -> bytes:
    import onnxscript  # noqa: F401  # which torch needs

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    made = torch.onnx.export(exported, input_names=["images"], output_names=OUTPUTS, dynamo=True, verbose=False)
    assert made is not None, "of a program in memory"
    made.model.metadata_props.update({key: json.dumps(value) for key, value in about.items()})
    return made.model_proto.SerializeToString()


def _run_onnx(content: bytes, x: Tensor) -> tuple[Tensor, ...]:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return tuple(map(torch.from_numpy, session.run(OUTPUTS, {"images": x.numpy()})))
