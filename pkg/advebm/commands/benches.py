"""What `advebm bench` measures: the same work by the package and by the plain way."""

import copy
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from advebm import config, plain
from advebm.commands.bench import Job
from advebm.data import images
from advebm.data.batches import Batch
from advebm.data.gaussians import Gaussians
from advebm.energy import conditional, grad, marginal, negative, posterior, unsaturated
from advebm.evaluation import fisher, quality
from advebm.evaluation.features import Network, network
from advebm.methods.base import Context, Method
from advebm.networks import accelerated, sampling
from advebm.samplers.apgd import apgd
from advebm.samplers.buffer import Replay
from advebm.samplers.pgd import Attack
from advebm.samplers.proximal import Proximal
from advebm.samplers.sgld import Langevin
from advebm.samplers.streams import Streams
from advebm.training import built

SHAPES = {"digits": (1, 8, 8), "mnist": (1, 28, 28), "cifar10": (3, 32, 32), "cifar100": (3, 32, 32)}  # of data.source
CLASSES = 10


def jobs(
    entry: dict[str, Any], methods: list[str], wanted: list[str], batch: int, steps: int, device: torch.device, root: Path
) -> list[Callable[[], Job]]:
    """What makes the jobs, one at a time: of a study's first method's network, and a training step of each method; root:
    where Inception's weights lie, without which features by it are left out."""
    if entry["data"]["source"] not in SHAPES:
        raise ValueError(f"bench knows the images of {', '.join(SHAPES)}, not of {entry['data']['source']}")
    shape = SHAPES[entry["data"]["source"]]
    bytes_ = np.random.default_rng(0).integers(0, 256, (4 * CLASSES, *shape[1:], shape[0]), dtype=np.uint8)
    gaussians = Gaussians.fit(images.Images(bytes_, np.arange(4 * CLASSES) % CLASSES), ridge=0.01)
    gaussians = Gaussians(gaussians.mean.to(device), gaussians.factor.to(device), shape)
    context = Context(0, shape, CLASSES, gaussians, device)
    x, x_out = torch.rand(2, batch, *shape, device=device)
    data = Batch(x, torch.arange(batch, device=device) % CLASSES, x_out)

    model = config.model(entry, methods[0])
    net = model.network.build(shape, model.method.outputs(CLASSES)).to(device)
    fast = accelerated(net, model.training.precision == "bf16").eval()
    with torch.no_grad():
        net(x)  # a flow normalises by the first images that it sees
    slow = plain.network(net).eval()
    langevin = Langevin(steps=steps, step_size=0.1, noise=0.005, clamp_grad=1.0, clip=True)
    attack = Attack(eps=8 / 255, steps=steps)
    streams = lambda of=slice(None): Streams(0, "bench", ids=torch.arange(batch, device=device)[of])  # noqa: E731
    both = {"plain": slow, "fast": fast}
    found: list[Callable[[], Job]] = []

    def pair(name: str, run: Callable[[nn.Module, Any], Tensor], setting: Any, exact: Any) -> Job:
        """run(net, setting) by the plain way and by the package; `exact` is the setting without randomness."""

        def way(kind: str, chosen: Any) -> Tensor:
            if kind == "plain":
                with in_float32():
                    return run(slow, plain.part(chosen))
            with sampling(fast):
                return run(fast, chosen)

        error = lambda: distance(way("fast", exact) - x, way("plain", exact) - x)  # noqa: E731
        return Job(name, batch, lambda: way("plain", setting), lambda: way("fast", setting), error)

    if "gradient" in wanted:
        ways = {"plain": plain.gradient, "fast": grad}

        def slope(kind: str) -> Tensor:
            with sampling(both[kind]) as own, in_float32() if kind == "plain" else nullcontext():
                return ways[kind](marginal(own), x)

        error = lambda: distance(slope("fast"), slope("plain"))  # noqa: E731
        found.append(partial(Job, "one input gradient", batch, partial(slope, "plain"), partial(slope, "fast"), error))
    if "chains" in wanted:
        sgld = lambda own, sampler: sampler(marginal(own), x, streams())  # noqa: E731
        found.append(partial(pair, f"SGLD, {steps} steps", sgld, langevin, replace(langevin, noise=0.0)))
        if model.method.outputs(CLASSES) > 1:
            pgd = lambda own, chosen: chosen(negative(posterior(own, data.y)), x, streams())  # noqa: E731
            found.append(partial(pair, f"PGD, {steps} steps", pgd, attack, replace(attack, random_start=False)))
        if hasattr(net, "stem"):
            proximal = Proximal(outer=steps, inner=5, step_size=0.05, clamp_grad=1.0)
            jempp = lambda own, sampler: sampler(own.stem, marginal(own.body), x)  # noqa: E731
            found.append(partial(pair, f"m x n sampler, {steps} x 5", jempp, proximal, proximal))
    if "step" in wanted:
        for name in methods:
            found.append(partial(step, entry, name, data, context))
    if "sample" in wanted:
        found.append(partial(sample, both, langevin, gaussians, streams, batch))
    if "evaluate" in wanted:
        if model.method.outputs(CLASSES) > 1:
            found.append(partial(robustness, both, data, attack, streams))
            found.append(partial(auto_pgd, both, data, attack))
        found.append(partial(fisher_scores, both, data, streams))
        spec = config.build(quality.Quality, entry["quality"])
        if spec.features == "judge" or (root / spec.inception).is_file():
            judge = config.model(entry, "judge").network.build(shape, CLASSES).to(device).eval()
            found.append(partial(features, network(spec, judge, shape[0], root), x))
    return found


def distance(fast: Tensor, slow: Tensor) -> float:
    """|fast - slow| / |slow|."""
    return ((fast - slow).norm() / slow.norm()).item()


def step(entry: dict[str, Any], name: str, data: Batch, context: Context) -> Job:
    """A training step: loss, gradients, optimiser."""
    model = config.model(entry, name)
    torch.manual_seed(0)
    net = model.network.build(context.shape, model.method.outputs(context.classes)).to(context.device)
    own = copy.deepcopy(model.method)
    if hasattr(own, "progressive"):
        own.progressive = None
    if hasattr(own, "buffer"):
        own.buffer = Replay(size=max(4 * len(data.x), 100), reinit=own.buffer.reinit)
    x_out = data.x_out if model.method.outliers else None
    data = data._replace(x_out=x_out)

    def started(kind: str, method: Method) -> tuple[nn.Module, Method, torch.optim.Optimizer]:
        method = plain.method(method) if kind == "plain" else copy.deepcopy(method)
        method.begin(context)
        fresh = plain.network(net) if kind == "plain" else copy.deepcopy(net)
        if kind == "fast":
            accelerated(fresh, model.training.precision == "bf16")
        return fresh.train(), method, built(model.training.optimizer, fresh, fused=kind == "fast")

    def way(kind: str) -> Callable[[], None]:
        net, method, optimizer = started(kind, own)
        if kind == "plain":
            plain.buffer(method)

        def run() -> None:
            loss = method.loss(net, data, 0)
            optimizer.zero_grad()
            loss.value.backward()
            optimizer.step()
            if kind == "plain":
                loss.value.item()  # shown at each step, so waited for

        return in_float32()(run) if kind == "plain" else run

    def error() -> float:
        """Of the gradient of the weights, without noise and random starts, from equal replay buffers."""
        calm = {}
        for part in fields(own):
            value = getattr(own, part.name)
            if isinstance(value, Langevin):
                calm[part.name] = replace(value, noise=0.0)
            if isinstance(value, Attack):
                calm[part.name] = replace(value, random_start=False)
        gradients = []
        for kind in ("fast", "plain"):
            fresh, method, _ = started(kind, replace(own, **calm))
            torch.manual_seed(0)
            with in_float32() if kind == "plain" else nullcontext():
                method.loss(fresh, data, 0).value.backward()
            gradients.append(torch.cat([p.grad.flatten() for p in fresh.parameters() if p.grad is not None]))
        return distance(*gradients)

    return Job(f"training step of {name}", len(data.x), way("plain"), way("fast"), error)


@contextmanager
def in_float32() -> Iterator[None]:
    """In this block convolutions are float32 on a GPU too, where torch by itself has TF32: in the plain way, and in what is
    generated and measured, for which `networks.load` has it so."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def pngs(x: Tensor, folder: str) -> None:
    """A file of each image, as published samples are kept and scored."""
    from PIL import Image

    for i, image in enumerate(images.to_bytes(x)):
        Image.fromarray(image.squeeze()).save(Path(folder, f"{i:06}.png"))


def sample(both: dict[str, nn.Module], sampler: Langevin, gaussians: Gaussians, streams: Callable, batch: int) -> Job:
    """Images from class Gaussians by a chain, float32 both ways, to the disk: one file; the plain way, a PNG for each."""
    y = torch.arange(batch, device=gaussians.mean.device) % len(gaussians.mean)

    @in_float32()
    def fast() -> None:
        with tempfile.TemporaryDirectory() as folder:
            x = sampler(marginal(both["fast"]), gaussians.sample(y, streams()), streams())
            images.save(Path(folder, "samples.npz"), images.Images(images.to_bytes(x)))

    @in_float32()
    def slow() -> None:
        with tempfile.TemporaryDirectory() as folder:
            x = plain.part(sampler)(marginal(both["plain"]), gaussians.sample(y, streams()))
            pngs(x, folder)

    @in_float32()
    def error() -> float:
        calm, x = replace(sampler, noise=0.0), gaussians.sample(y, streams())
        return distance(calm(marginal(both["fast"]), x) - x, plain.part(calm)(marginal(both["plain"]), x) - x)

    return Job("samples to the disk", batch, slow, fast, error, float32=True)


def robustness(both: dict[str, nn.Module], data: Batch, attack: Attack, streams: Callable) -> Job:
    """Right after an attack, and the energy of each image: in float32 both ways, as what is reported."""

    @in_float32()
    def way(net: nn.Module, chosen: Attack) -> Tensor:
        moved = chosen(negative(posterior(net, data.y)), data.x, streams())
        with torch.no_grad():
            right = net(moved).argmax(1) == data.y
            return torch.stack([right.double(), marginal(net)(moved).double()])

    calm = replace(attack, random_start=False)
    return Job(
        "robust accuracy and energies",
        len(data.x),
        lambda: way(both["plain"], plain.part(attack)),
        lambda: way(both["fast"], attack),
        lambda: distance(way(both["fast"], calm)[1], way(both["plain"], plain.part(calm))[1]),
        float32=True,
    )


def auto_pgd(both: dict[str, nn.Module], data: Batch, attack: Attack) -> Job:
    """The worst case of the cross-entropy, float32 both ways; the plain way is its authors' release. Error: of the losses
    found."""
    from pyautoattack.autopgd_base import APGDAttack

    x, numbers = data.x, {"eps": attack.eps, "steps": attack.steps}
    device = str(x.device)
    released = APGDAttack(both["plain"], n_iter=attack.steps, norm="Linf", eps=attack.eps, loss="ce", device=device)
    released.init_hyperparam(x)
    energy = negative(unsaturated(both["fast"], data.y))

    @in_float32()
    def fast() -> Tensor:
        return apgd(energy, x, x, **numbers, norm="linf")

    @in_float32()
    def slow() -> Tensor:
        return released.attack_single_run(x, data.y, x_init=x)[0].detach()

    def error() -> float:
        found = fast(), slow()
        with torch.no_grad():
            return distance(*map(energy, found))

    return Job(f"Auto-PGD, {attack.steps} steps", len(x), slow, fast, error, float32=True)


def fisher_scores(both: dict[str, nn.Module], data: Batch, streams: Callable) -> Job:
    """Of E(x) and E(x, y), float32 both ways; the plain way goes image by image."""
    linear = fisher.piecewise_linear(both["fast"])

    def scores(net: nn.Module, of: slice) -> Tensor:
        x, y = data.x[of], data.y[of]
        if linear:
            return torch.stack(list(fisher.exact(net, x, y).values()))
        energies = [marginal(net)] + ([conditional(net, y)] if net.outputs > 1 else [])
        return torch.stack([fisher.hutchinson(energy, x, fisher.Fisher.probes, streams(of)) for energy in energies])

    @in_float32()
    def fast() -> Tensor:
        return scores(both["fast"], slice(None))

    @in_float32()
    def slow() -> Tensor:
        return torch.cat([scores(both["plain"], slice(i, i + 1)) for i in range(len(data.x))], 1)

    name = f"Fisher scores, {'exact' if linear else 'hutchinson'}"
    return Job(name, len(data.x), slow, fast, lambda: distance(fast(), slow()), float32=True)


def features(using: Network, x: Tensor) -> Job:
    """Of the network that FID, KID and Inception Score go by, of images in memory; the plain way, torch-fidelity's own of a
    folder of PNGs."""
    from advebm.vision import torch_fidelity

    using.options["cuda"] = x.is_cuda
    options = using.options | {"feature_extractor": "inception-v3-compat" if using.weights else using.name}
    own = torch_fidelity.utils.create_feature_extractor(options["feature_extractor"], list(using.layers), **options)
    layer = using.layers[0]

    @in_float32()
    def fast() -> Tensor:
        return using.features(images.to_bytes(x), "bench")[layer]

    @in_float32()
    def slow() -> Tensor:
        with tempfile.TemporaryDirectory() as folder:
            pngs(x, folder)
            return torch_fidelity.utils.extract_featuresdict_from_input_id(1, own, input1=folder, **options)[layer]

    name = "inception" if using.weights else "judge"
    return Job(f"features of {name}", len(x), slow, fast, lambda: distance(fast(), slow()), float32=True)
