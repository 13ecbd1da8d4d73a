"""Fisher scores: the distance between the gradients of the energy and of the data's -log density, up to a constant."""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

import torch
from annotated_types import Ge
from torch import Tensor, fx, nn

from advebm.data.images import Images
from advebm.energy import Energy, conditional, marginal, posterior
from advebm.evaluation.result import Result
from advebm.evaluation.subject import Subject
from advebm.networks import Network, frozen
from advebm.networks.passes import convolving
from advebm.ranges import Count
from advebm.runtime.parts import SEED, Part, anew, gathered
from advebm.samplers.streams import Streams

LINEAR = (nn.Conv2d, nn.Linear, nn.AdaptiveAvgPool2d, nn.AvgPool2d, nn.Flatten, nn.Identity, nn.ReLU, nn.LeakyReLU)


@dataclass(kw_only=True)
class Fisher:
    """Scores of the first n images of the split."""

    n: Annotated[int, Ge(2)] = 1000
    split: Literal["validation", "test"] = "test"  # tune with validation
    probes: Count = 8  # of Hutchinson's estimate for each image, where the trace is not computed exactly

    def measure(self, subject: Subject, part: Part) -> "tuple[FisherResult, None]":
        images, bar = subject.images(self.split), subject.bar("fisher")
        return fisher(subject.net, images, self, seed=SEED, part=part, progress=bar), None


@dataclass(kw_only=True)
class Score:
    """Mean over images and its standard error, for pixels in [0, 1] and, "symmetric", in [-1, 1]."""

    score: float
    se: float
    score_symmetric: float
    se_symmetric: float
    ways: str  # how the trace was computed: exact or hutchinson


@dataclass(kw_only=True)
class FisherResult(Result):
    joint: Score | None  # of E(x, y); None where the network has no class logits
    marginal: Score | None  # of E(x)
    n: int

    @property
    def scores(self) -> dict[str, Score]:
        """Those that the network has."""
        return {name: score for name, score in vars(self).items() if isinstance(score, Score)}


class _Pieces(fx.Tracer):
    """Traces a network down to its piecewise linear layers. Weights may depend on other weights (spectral norm), but not on
    the image."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        normalises = isinstance(module, nn.BatchNorm2d) and not module.training and module.track_running_stats
        return isinstance(module, LINEAR) or normalises


def piecewise_linear(net: nn.Module) -> bool:
    """Whether the logits are piecewise linear in the image: the network consists of piecewise linear layers, sums, and
    products and quotients with numbers, functional calls included. False where it cannot be traced (flows)."""
    try:
        nodes = list(_Pieces().trace(net).nodes)
    except Exception:  # tracing raises whatever the network's code raises when its input is not a tensor
        return False

    def linear(node: fx.Node) -> bool:
        if node.op != "call_function":
            return node.op in ("placeholder", "call_module", "output")
        scaled = node.target in (operator.mul, operator.truediv) and not isinstance(node.args[1], fx.Node)
        return scaled or node.target in (operator.add, operator.iadd, operator.sub)

    return all(map(linear, nodes))


def exact(net: Network, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """.5 |grad E|^2 - tr(Hess E) of each image, (B,), for E(x, y) and E(x) of a piecewise linear network, by K gradients.

    Almost everywhere Hess E(x, k) = 0. So for E(x) = -log sum_k exp(-E(x, k)), with p_k = p(k | x), g_k = grad E(x, k):

        grad E(x) = sum_k p_k g_k = m        -tr Hess E(x) = sum_k p_k |g_k|^2 - |m|^2 = sum_k p_k |g_k - m|^2
    """
    x = x.detach().requires_grad_(True)
    f = net(x)
    classes = [torch.full_like(y, k) for k in range(net.outputs)]
    p = torch.stack([posterior.of(f, k).neg().exp() for k in classes]).detach()  # (K, B)
    slopes = [torch.autograd.grad(conditional.of(f, k).sum(), x, retain_graph=True)[0].flatten(1) for k in classes]
    g = torch.stack(slopes)  # (K, B, D)
    m = (p[..., None] * g).sum(0)
    spread = (p * (g - m).square().sum(2)).sum(0)
    found = {"marginal": 0.5 * m.square().sum(1) + spread}
    if net.outputs > 1:
        found["joint"] = 0.5 * g[y, torch.arange(len(y), device=y.device)].square().sum(1)
    return found


def hutchinson(energy: Energy, x: Tensor, probes: int, streams: Streams) -> Tensor:
    """.5 |grad E|^2 - tr(Hess E) of each image, (B,). The trace is estimated by the mean of v' (Hess E) v over probes v of
    +-1 (Hutchinson 1989)."""
    x = x.detach().requires_grad_(True)
    g = torch.autograd.grad(energy(x).sum(), x, create_graph=True)[0]
    trace = x.new_zeros(len(x))
    for _ in range(probes):
        v = (2 * streams.integers(2, *x.shape[1:]) - 1).to(x)
        trace = trace + (v * torch.autograd.grad((v * g).sum(), x, retain_graph=True)[0]).flatten(1).sum(1) / probes
    return 0.5 * g.detach().flatten(1).square().sum(1) - trace


def summary(scores: Tensor, ways: str) -> Score:
    """Mean over images and its standard error, which includes the noise of the probes. With u = 2 x - 1 gradients are half
    as long, so both terms are a quarter."""
    scores = scores.double()
    score, se = scores.mean().item(), scores.std().item() / len(scores) ** 0.5
    return Score(score=score, se=se, score_symmetric=score / 4, se_symmetric=se / 4, ways=ways)


@convolving("fp32")
def fisher(
    net: Network, images: Images, spec: Fisher, *, seed: int, batch: int = 100, part: Part = anew, progress: Callable = iter
) -> FisherResult:
    """E[.5 |grad E|^2 - tr(Hess E)] over images, of E(x, y) and of E(x) (Hyvarinen 2005; Zhu et al. 2021, Eq. 23 and 24).

    The network is used in evaluation mode. As in that paper, the curvature at the kinks of a piecewise linear network is
    ignored, so its scores are never negative and are lowest where the energy is flat. Scores of smooth densities may be far
    below 0.
    """
    images = images[: spec.n]
    n, device = len(images.x), next(net.parameters()).device
    names = ["joint", "marginal"] if net.outputs > 1 else ["marginal"]

    def scored(start: int) -> Tensor:
        """The scores of a batch, (names, B)."""
        x, y = images[start : start + batch].pixels(device), images[start : start + batch].labels(device)
        if ways == "exact":
            scores = exact(net, x, y)
        else:
            ids = torch.arange(start, start + len(x), device=device)
            streams = {name: Streams(seed, "fisher", name, ids=ids) for name in names}
            energies = {"joint": conditional(net, y), "marginal": marginal(net)}
            scores = {name: hutchinson(energies[name], x, spec.probes, streams[name]) for name in names}
        return torch.stack([scores[name].detach() for name in names]).cpu()

    with frozen(net):
        ways = "exact" if piecewise_linear(net) else "hutchinson"
        makers: dict[str, Callable[[], Tensor]] = {
            f"{batch} from {start}": partial(scored, start) for start in range(0, n, batch)
        }
        found = torch.cat(gathered(makers, part, progress), 1)
    scores = {name: summary(values, ways) for name, values in zip(names, found, strict=True)}
    return FisherResult(joint=scores.get("joint"), marginal=scores["marginal"], n=n)
