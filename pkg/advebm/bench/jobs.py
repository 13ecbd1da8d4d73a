"""The jobs of `advebm bench`: the same work by the package and by the plain implementation."""

import copy
import tempfile
from collections.abc import Callable
from dataclasses import fields, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advebm import config, networks
from advebm.bench import plain
from advebm.bench.ways import PLAIN, Job
from advebm.data import images, sources
from advebm.data.batches import Batch
from advebm.data.gaussians import Gaussians
from advebm.energy import conditional, grad, marginal, negative, posterior, unsaturated
from advebm.evaluation import fisher, quality
from advebm.evaluation.features import FeatureNetwork, network
from advebm.methods.base import Context, Method
from advebm.networks.passes import Passes, View, convolving
from advebm.ranges import Precision
from advebm.samplers.apgd import apgd
from advebm.samplers.buffer import Replay
from advebm.samplers.pgd import Attack
from advebm.samplers.proximal import Proximal
from advebm.samplers.sgld import Langevin
from advebm.samplers.streams import Streams
from advebm.training import Losses, built

CLASSES = 10
PACKAGE = ("fast", "eager")  # the second is without graphs


def jobs(
    entry: dict[str, Any], methods: list[str], wanted: list[str], batch: int, steps: int, device: torch.device, root: Path
) -> list[Callable[[], Job]]:
    """Functions that make the jobs, one at a time: for the network of the study's first method, and a training step of
    each method. Features by Inception are left out if its weights are not in `root`."""
    shape = sources.shape(entry["data"]["source"], root)
    bytes_ = np.random.default_rng(0).integers(0, 256, (4 * CLASSES, *shape[1:], shape[0]), dtype=np.uint8)
    gaussians = Gaussians.fit(images.Images(bytes_, np.arange(4 * CLASSES) % CLASSES), ridge=0.01)
    gaussians = Gaussians(gaussians.mean.to(device), gaussians.factor.to(device), shape)
    context = Context(0, shape, CLASSES, gaussians, device)
    x, x_out = torch.rand(2, batch, *shape, device=device)
    data = Batch(x, torch.arange(batch, device=device) % CLASSES, x_out)

    model = config.model(entry, methods[0])
    net = model.network.build(shape, model.method.outputs(CLASSES)).to(device)
    with torch.no_grad():
        net.eval()(x)  # a flow sets its normalisation by its first images
    nets = dict.fromkeys(PLAIN, plain.network(net)) | dict.fromkeys(PACKAGE, net)
    trained, measured = (passes(precision, device) for precision in (model.training.precision, "fp32"))
    langevin = Langevin(steps=steps, step_size=0.1, noise=0.005, clamp_grad=1.0, clip=True)
    attack = Attack(eps=8 / 255, steps=steps)
    streams = lambda of=slice(None): Streams(0, "bench", ids=torch.arange(batch, device=device)[of])  # noqa: E731
    found: list[Callable[[], Job]] = []

    def pair(name: str, run: Callable[[View, Any], Tensor], setting: Any, exact: Any) -> Job:
        """run(net, setting); `exact` is the setting without randomness."""

        def way(kind: str, calm: bool) -> Tensor:
            chosen = part(kind, exact if calm else setting)
            with trained[kind].sampling(nets[kind]) as f:
                moved = run(f, chosen)
            return moved - x if calm else moved

        return Job(name, batch, way)

    if "gradient" in wanted:

        def slope(kind: str, calm: bool) -> Tensor:
            with trained[kind].sampling(nets[kind]) as f:
                return (grad if kind in PACKAGE else plain.gradient)(marginal(f), x)

        found.append(partial(Job, "one input gradient", batch, slope))
    if "chains" in wanted:
        chain = lambda f, sampler: sampler(marginal(f), x, streams())  # noqa: E731
        found.append(partial(pair, f"SGLD, {steps} steps", chain, langevin, replace(langevin, noise=0.0)))
        if model.method.outputs(CLASSES) > 1:
            pgd = lambda f, chosen: chosen(negative(posterior(f, data.y)), x, streams())  # noqa: E731
            found.append(partial(pair, f"PGD, {steps} steps", pgd, attack, replace(attack, random_start=False)))
        if hasattr(net, "stem"):
            proximal = Proximal(outer=steps, inner=5, step_size=0.05, clamp_grad=1.0)
            found.append(partial(pair, f"m x n sampler, {steps} x 5", chain, proximal, proximal))
    if "step" in wanted:
        for name in methods:
            found.append(partial(step, entry, name, data, context))
    if "sample" in wanted:
        found.append(partial(sample, nets, measured, langevin, gaussians, streams, batch))
    if "evaluate" in wanted:
        if model.method.outputs(CLASSES) > 1:
            found.append(partial(robustness, nets, measured, data, attack, streams))
            found.append(partial(auto_pgd, nets, measured, data, attack))
        found.append(partial(fisher_scores, nets, data, streams))
        spec = config.build(quality.Quality, entry["quality"])
        if spec.features == "judge" or (root / spec.inception).is_file():
            judge = config.model(entry, "judge").network.build(shape, CLASSES).to(device).eval()
            found.append(partial(features, network(spec, judge, shape[0], root), x))
    return found


def passes(precision: Precision, device: torch.device | str) -> dict[str, Passes]:
    """The passes of each implementation; the package's have this precision."""
    fast = Passes.on(device, precision)
    plainly = {kind: Passes(own) for kind, own in PLAIN.items()}
    return plainly | {"fast": fast, "eager": replace(fast, graphs=False)}


def part(kind: str, sampler: Any) -> Any:
    """A sampler or an attack in this implementation."""
    return sampler if kind in PACKAGE else plain.part(sampler)


def quiet(sampler: Any) -> Any:
    """A sampler or an attack without noise and random start; other objects unchanged."""
    calm = {"noise": 0.0, "random_start": False}
    numbers = {key: value for key, value in calm.items() if hasattr(sampler, key)}
    return replace(sampler, **numbers) if numbers else sampler


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

    def started(kind: str, method: Method) -> tuple[Losses, torch.optim.Optimizer]:
        training = model.training
        if kind in PACKAGE:
            method, fresh = copy.deepcopy(method), copy.deepcopy(net)
        else:
            method, fresh = plain.method(method), plain.network(net)
        method.begin(context._replace(passes=passes(training.precision, context.device)[kind]))
        optimizer = built(training.optimizer, fresh, fused=kind in PACKAGE)
        return Losses(method, fresh, PLAIN.get(kind, training.loss_precision)).train(), optimizer

    def gradient(kind: str) -> Tensor:
        """The gradient of the weights, without noise and random starts, from equal replay buffers."""
        calm = replace(own, **{field.name: quiet(getattr(own, field.name)) for field in fields(own)})
        losses, _ = started(kind, calm)
        torch.manual_seed(0)
        with convolving(losses.precision):
            losses(data, 0).value.backward()
        return torch.cat([p.grad.flatten() for p in losses.parameters() if p.grad is not None])

    @cache
    def begun(kind: str) -> tuple[Losses, torch.optim.Optimizer]:
        losses, optimizer = started(kind, own)
        if kind in PLAIN:
            plain.buffer(losses.method)
        return losses, optimizer

    def way(kind: str, calm: bool) -> Tensor | None:
        if calm:
            return gradient(kind)
        losses, optimizer = begun(kind)
        with convolving(losses.precision):
            loss = losses(data, 0)
            optimizer.zero_grad()
            loss.value.backward()
        optimizer.step()
        if kind in PLAIN:
            loss.value.item()  # printed at each step, which waits for it
        return None

    return Job(f"training step of {name}", len(data.x), way)


def pngs(x: Tensor, folder: str) -> None:
    """Write a file for each image, as published samples are stored and scored."""
    from PIL import Image

    for i, image in enumerate(images.to_bytes(x)):
        Image.fromarray(image.squeeze()).save(Path(folder, f"{i:06}.png"))


def sample(
    nets: dict[str, networks.Network],
    passes: dict[str, Passes],
    sampler: Langevin,
    gaussians: Gaussians,
    streams: Callable,
    batch: int,
) -> Job:
    """Images from class Gaussians by a chain, saved in one file; by the plain implementation, as a PNG each."""
    y = torch.arange(batch, device=gaussians.mean.device) % len(gaussians.mean)

    def way(kind: str, calm: bool) -> Tensor | None:
        start = gaussians.sample(y, streams())
        with passes[kind].sampling(nets[kind]) as f:
            x = part(kind, quiet(sampler) if calm else sampler)(marginal(f), start, streams())
        if calm:
            return x - start
        with tempfile.TemporaryDirectory() as folder:
            if kind in PACKAGE:
                images.save(Path(folder, "samples.npz"), images.Images(images.to_bytes(x)))
            else:
                pngs(x, folder)
        return None

    return Job("samples to the disk", batch, way, float32=True)


def robustness(
    nets: dict[str, networks.Network], passes: dict[str, Passes], data: Batch, attack: Attack, streams: Callable
) -> Job:
    """Robust accuracy after an attack, and the energy of each image. Compared: the energies."""

    def way(kind: str, calm: bool) -> Tensor:
        net, chosen = nets[kind], part(kind, quiet(attack) if calm else attack)
        with passes[kind].sampling(net) as f:
            moved = chosen(negative(posterior(f, data.y)), data.x, streams())
        with torch.no_grad():
            right = net(moved).argmax(1) == data.y
            energies = marginal(net)(moved).double()
        return energies if calm else torch.stack([right.double(), energies])

    return Job("robust accuracy and energies", len(data.x), way, float32=True)


def auto_pgd(nets: dict[str, networks.Network], passes: dict[str, Passes], data: Batch, attack: Attack) -> Job:
    """The worst case of the cross-entropy; the plain implementation is its authors' release. Compared: the losses found."""
    from pyautoattack.autopgd_base import APGDAttack

    x = data.x
    numbers: dict[str, Any] = {"eps": attack.eps, "steps": attack.steps}
    device = str(x.device)
    released = APGDAttack(nets["plain"], n_iter=attack.steps, norm="Linf", eps=attack.eps, loss="ce", device=device)
    released.init_hyperparam(x)
    energy = negative(unsaturated(nets["fast"], data.y))

    def way(kind: str, calm: bool) -> Tensor:
        if kind in PACKAGE:
            with passes[kind].sampling(nets[kind]) as f:
                found = apgd(negative(unsaturated(f, data.y)), x, x, **numbers, norm="linf")
        else:
            found = released.attack_single_run(x, data.y, x_init=x)[0].detach()
        with torch.no_grad():
            return energy(found) if calm else found

    return Job(f"Auto-PGD, {attack.steps} steps", len(x), way, float32=True)


def fisher_scores(nets: dict[str, networks.Network], data: Batch, streams: Callable) -> Job:
    """Fisher scores of E(x) and E(x, y); the plain implementation takes one image at a time."""
    linear = fisher.piecewise_linear(nets["fast"])

    def scores(net: networks.Network, of: slice) -> Tensor:
        x, y = data.x[of], data.y[of]
        if linear:
            return torch.stack(list(fisher.exact(net, x, y).values()))
        energies = [marginal(net)] + ([conditional(net, y)] if net.outputs > 1 else [])
        return torch.stack([fisher.hutchinson(energy, x, fisher.Fisher.probes, streams(of)) for energy in energies])

    def way(kind: str, calm: bool) -> Tensor:
        if kind in PACKAGE:
            return scores(nets[kind], slice(None))
        return torch.cat([scores(nets[kind], slice(i, i + 1)) for i in range(len(data.x))], 1)

    name = f"Fisher scores, {'exact' if linear else 'hutchinson'}"
    return Job(name, len(data.x), way, float32=True)


def features(using: FeatureNetwork, x: Tensor) -> Job:
    """Features of images in memory, by the network of FID, KID and Inception Score; the plain implementation is
    torch-fidelity, from a folder of PNGs."""
    from advebm.vision import torch_fidelity

    using.options["cuda"] = x.is_cuda
    options = using.options | {"feature_extractor": "inception-v3-compat" if using.weights else using.name}
    own = torch_fidelity.utils.create_feature_extractor(options["feature_extractor"], list(using.layers), **options)
    layer = using.layers[0]

    def way(kind: str, calm: bool) -> Tensor:
        if kind in PACKAGE:
            return using.features(images.to_bytes(x), "bench")[layer]
        with tempfile.TemporaryDirectory() as folder:
            pngs(x, folder)
            return torch_fidelity.utils.extract_featuresdict_from_input_id(1, own, input1=folder, **options)[layer]

    name = "inception" if using.weights else "judge"
    return Job(f"features of {name}", len(x), way, float32=True)
