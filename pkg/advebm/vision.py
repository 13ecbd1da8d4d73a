"""The only importer of torchvision (and of torch-fidelity, which imports torchvision).

PyPI's torchvision is built for CUDA. With a CPU-only torch its compiled operators nms and qnms are missing, and the import
fails when it registers their shapes. Declaring their schemas first lets everything but these two operators work.
"""

import torch

if not torch.cuda.is_available() and torch.version.cuda is None:
    _library = torch.library.Library("torchvision", "FRAGMENT")  # must stay referenced: its operators are removed with it
    _library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import torch_fidelity  # noqa: F401
import torchvision

datasets = torchvision.datasets
resnet = torchvision.models.resnet
transforms = torchvision.transforms
