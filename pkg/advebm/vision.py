"""The one place that imports torchvision (and torch-fidelity, which imports it).

PyPI's torchvision is built for CUDA. Beside a CPU-only torch its two compiled operators are absent, and registering
their shapes fails the import; with their schemas declared first everything but those two operators works.
"""

import torch


def _declare_operators() -> None:
    library = torch.library.Library("torchvision", "FRAGMENT")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declare_operators.library = library  # a library that is collected takes its operators along


if not torch.cuda.is_available() and torch.version.cuda is None:
    _declare_operators()

import torch_fidelity  # noqa: E402, F401
import torchvision  # noqa: E402

datasets = torchvision.datasets
resnet = torchvision.models.resnet
transforms = torchvision.transforms
