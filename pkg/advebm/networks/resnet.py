"""Residual networks (He et al. 2016) of torchvision with a stem for 32x32 images. AT-EBM uses ResNet-50."""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from advebm.networks.norms import FrozenBatchNorm2d
from advebm.networks.recompute import Recomputed
from advebm.networks.wrn import Classifier, Head, Normalise, Stem
from advebm.ranges import Positive

BLOCKS = {18: ("BasicBlock", [2, 2, 2, 2]), 34: ("BasicBlock", [3, 4, 6, 3]), 50: ("Bottleneck", [3, 4, 6, 3])}


@dataclass(kw_only=True)
class ResNet:
    """ResNet-depth whose first convolution is 3x3 with stride 1, without pooling."""

    kind: Literal["resnet"] = "resnet"
    depth: Literal[18, 34, 50] = 50
    norm: Literal["frozen", "batch", "none"] = "frozen"  # see networks/norms.py; AT-EBM keeps the initial statistics
    mean: float = 0.0  # pixel normalisation (x - mean) / std; 0 and 1 leave [0, 1]
    std: Positive = 1.0
    init: Literal["kaiming", "torch"] = "kaiming"  # of convolutions: torchvision's, or torch's default as AT-EBM released
    checkpoint: bool = False  # activations are computed again for gradients: less memory, more time, the same numbers

    def build(self, shape: tuple[int, int, int], outputs: int) -> Classifier:
        from advebm.vision import resnet

        block, layers = BLOCKS[self.depth]
        norm = {"frozen": FrozenBatchNorm2d, "batch": nn.BatchNorm2d, "none": nn.Identity}[self.norm]
        net = resnet.ResNet(getattr(resnet, block), layers, num_classes=outputs, norm_layer=norm)
        first = nn.Conv2d(shape[0], 64, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(first.weight, mode="fan_out", nonlinearity="relu")  # as in torchvision
        if self.init == "torch":
            for layer in (first, *net.modules()):
                if isinstance(layer, nn.Conv2d):
                    layer.reset_parameters()
        stem = Stem(Normalise(self.mean, self.std), first)
        groups = [net.layer1, net.layer2, net.layer3, net.layer4]
        groups = [Recomputed(*group) for group in groups] if self.checkpoint else groups
        body = [net.bn1, nn.ReLU(), *groups, net.avgpool, nn.Flatten()]
        head = Head(net.fc.in_features, outputs)
        head.load_state_dict(net.fc.state_dict())  # torchvision's initialisation
        return Classifier(self, shape, outputs, stem, nn.Sequential(*body), head)
