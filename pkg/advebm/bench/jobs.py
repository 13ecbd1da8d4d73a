"""The jobs of `advebm bench`: the same work by the package and by the plain implementation."""

import copy
import math
import tempfile
from collections.abc import Callable
from dataclasses import fields, replace
from functools import cache, partial
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from advebm import config
from advebm.bench import plain
from advebm.data import images, sources
from advebm.data.batches import Batch
from advebm.data.gaussians import Gaussians
from advebm.energy import conditional, grad, marginal, negative, posterior, unsaturated
from advebm.evaluation import fisher, quality
from advebm.evaluation.features import network
from advebm.methods.ascent import AscentMethod
from advebm.methods.base import Context, JointMethod, Method
from advebm.networks import Network
from advebm.networks.passes import Passes, View, convolving
from advebm.ranges import Precision
from advebm.samplers.apgd import apgd
from advebm.samplers.buffer import Replay
from advebm.samplers.pgd import Attack
from advebm.samplers.proximal import Proximal
from advebm.samplers.sgld import Langevin
from advebm.samplers.streams import Streams
from advebm.training import Losses, backward, built

CLASSES = 10
FITTED = 4096  # numbers of an image up to which there are class Gaussians: their memory is its square
PLAIN: dict[str, Precision] = {"plain": "fp32", "default": "tf32"}  # plain implementations; the second has torch's defaults
PACKAGE = ("fast", "eager")  # the second is without graphs
Draw = Callable[[View, Any], Tensor]  # draws images from a network by a sampler


class Job(NamedTuple):
    """The same work by several implementations, on a batch. run(kind, calm): `kind` is one of PLAIN or PACKAGE; with `calm`
    there is no noise, and the result is what is compared: for a chain or an attack, the displacement of its images."""

    name: str
    run: Callable[[str, bool], Any]
    float32: bool = False  # in the package too, whatever precision training samples in


def passes(precision: Precision, device: torch.device | str) -> dict[str, Passes]:
    """The passes of each implementation; the package's have this precision."""
    fast = Passes.on(device, precision)
    plainly = {kind: Passes(own) for kind, own in PLAIN.items()}
    return plainly | {"fast": fast, "eager": replace(fast, graphs=False)}


def without_noise(sampler: Any) -> Any:
    """A sampler without noise; other objects unchanged."""
    return replace(sampler, noise=0.0) if hasattr(sampler, "noise") else sampler


def pngs(x: Tensor, folder: str) -> None:
    """Write a file for each image, as published samples are stored and scored."""
    for i, image in enumerate(images.to_bytes(x)):
        Image.fromarray(image.squeeze()).save(Path(folder, f"{i:06}.png"))


class Bench:
    """What the jobs share: a batch of noise, and the network of a study's method. size: the side of the images, by default
    the study's. Large images have no class Gaussians."""

    def __init__(
        self,
        entry: dict[str, Any],
        method: str,
        batch: int,
        steps: int,
        device: torch.device,
        root: Path,
        size: int | None = None,
    ):
        shape = sources.shape(entry["data"]["source"], root, entry["data"].get("size"))
        shape = (shape[0], size, size) if size else shape
        self.gaussians: Gaussians | None = None
        if math.prod(shape) <= FITTED:
            noise = np.random.default_rng(0).integers(0, 256, (4 * CLASSES, *shape[1:], shape[0]), dtype=np.uint8)
            fitted = Gaussians.fit(images.Images(noise, np.arange(4 * CLASSES) % CLASSES), ridge=0.01)
            self.gaussians = Gaussians(fitted.mean.to(device), fitted.factor.to(device), shape)
        self.entry, self.root, self.steps = entry, root, steps
        self.context = Context(0, shape, CLASSES, self.gaussians, device)
        x, x_out = torch.rand(2, batch, *shape, device=device)
        self.data = Batch(x, torch.arange(batch, device=device) % CLASSES, x_out, x_plain=x, x_other=x)

        model = config.model(entry, method)
        self.net = model.network.build(shape, model.method.outputs(CLASSES)).to(device)
        with torch.no_grad():
            self.net.eval()(x)  # a flow sets its normalisation by its first images
        self.nets = dict.fromkeys(PLAIN, plain.network(self.net)) | dict.fromkeys(PACKAGE, self.net)
        self.trained, self.measured = passes(model.training.precision, device), passes("fp32", device)
        self.langevin = Langevin(steps=steps, step_size=0.1, noise=0.005, clamp_grad=1.0, clip=True)
        self.attack = Attack(eps=8 / 255, steps=steps)

    def jobs(self, wanted: list[str], methods: list[str]) -> list[Callable[[], Job]]:
        """Functions that make the jobs, one at a time. Features by Inception are left out if its weights are not in the
        data root."""
        classifies = self.net.outputs > 1
        spec = config.build(quality.Quality, self.entry["quality"])
        scores = spec.features == "judge" or (self.root / spec.inception).is_file()
        proximal = Proximal(outer=self.steps, inner=5, step_size=0.05, clamp_grad=1.0)
        sgld = partial(self.chain, f"SGLD, {self.steps} steps", self.langevin, self.chained)
        pgd = partial(self.chain, f"PGD, {self.steps} steps", self.attack, self.attacked)
        jempp = partial(self.chain, f"m x n sampler, {self.steps} x 5", proximal, self.chained)
        found: dict[str, list[Callable[[], Job]]] = {
            "gradient": [self.gradient],
            "chains": [sgld, *[pgd] * classifies, *[jempp] * hasattr(self.net, "stem")],
            "step": [partial(self.step, name) for name in methods if self.gaussians or not self.informed(name)],
            "sample": [self.sample] * (self.gaussians is not None),
            "evaluate": [*[self.robustness, self.auto_pgd] * classifies, self.fisher, *[self.features] * scores],
        }
        return [make for name, makes in found.items() if name in wanted for make in makes]

    def informed(self, name: str) -> bool:
        """Whether a training step of the method draws from class Gaussians."""
        method = config.model(self.entry, name).method
        if isinstance(method, AscentMethod):
            return "gaussians" in method.start
        return isinstance(method, JointMethod) and method.informed

    def streams(self, of: slice = slice(None)) -> Streams:
        return Streams(0, "bench", ids=torch.arange(len(self.data.x), device=self.data.x.device)[of])

    def moved(self, kind: str, calm: bool, using: dict[str, Passes], sampler: Any, run: Draw) -> Tensor:
        """run(network, sampler), with this implementation's network and sampler."""
        chosen = without_noise(sampler) if calm else sampler
        with using[kind].sampling(self.nets[kind]) as f:
            return run(f, chosen if kind in PACKAGE else plain.part(chosen))

    def gradient(self) -> Job:
        def run(kind: str, calm: bool) -> Tensor:
            with self.trained[kind].sampling(self.nets[kind]) as f:
                return (grad if kind in PACKAGE else plain.gradient)(marginal(f), self.data.x)

        return Job("one input gradient", run)

    def chain(self, name: str, sampler: Any, run: Draw) -> Job:
        def way(kind: str, calm: bool) -> Tensor:
            x = self.moved(kind, calm, self.trained, sampler, run)
            return x - self.data.x if calm else x

        return Job(name, way)

    def chained(self, f: View, sampler: Any) -> Tensor:
        return sampler(marginal(f), self.data.x, self.streams())

    def attacked(self, f: View, attack: Attack) -> Tensor:
        return attack(negative(posterior(f, self.data.y)), self.data.x, self.streams())

    def step(self, name: str) -> Job:
        """A training step: loss, gradients, optimiser."""
        model, context = config.model(self.entry, name), self.context
        training = model.training
        torch.manual_seed(0)
        net = model.network.build(context.shape, model.method.outputs(context.classes)).to(context.device)
        own = copy.deepcopy(model.method)
        if hasattr(own, "progressive"):
            own.progressive = None
        if hasattr(own, "buffer"):
            own.buffer = Replay(size=max(4 * len(self.data.x), 100), reinit=own.buffer.reinit)
        still = replace(own, **{field.name: without_noise(getattr(own, field.name)) for field in fields(own)})
        data = self.data if model.method.outliers else self.data._replace(x_out=None)
        steps = count(1)

        def started(kind: str, method: Method) -> tuple[Losses, torch.optim.Optimizer]:
            if kind in PACKAGE:
                method, fresh = copy.deepcopy(method), copy.deepcopy(net)
            else:
                method, fresh = plain.method(method), plain.network(net)
            method.begin(context._replace(passes=passes(training.precision, context.device)[kind]))
            optimizer = built(training.optimizer, fresh, fused=kind in PACKAGE)
            return Losses(method, fresh, PLAIN.get(kind, training.loss_precision)).train(), optimizer

        @cache
        def begun(kind: str) -> tuple[Losses, torch.optim.Optimizer]:
            losses, optimizer = started(kind, own)
            if kind in PLAIN:
                plain.buffer(losses.method)
            return losses, optimizer

        def run(kind: str, calm: bool) -> Tensor | None:
            """A step; calm: the gradient of the weights, without noise, from equal replay buffers."""
            if calm:
                losses, optimizer = started(kind, still)
                torch.manual_seed(0)
            else:
                losses, optimizer = begun(kind)
            with convolving(losses.precision):
                losses.net.renew()
                loss = backward(losses, data, 0 if calm else next(steps), optimizer, training.optimizer.sam)
            if calm:
                return torch.cat([p.grad.flatten() for p in losses.parameters() if p.grad is not None])
            optimizer.step()
            if kind in PLAIN:
                loss.value.item()  # printed at each step, which waits for it
            return None

        return Job(f"training step of {name}", run)

    def sample(self) -> Job:
        """Images from class Gaussians by a chain, saved in one file; by the plain implementation, as a PNG each."""

        def run(kind: str, calm: bool) -> Tensor | None:
            assert self.gaussians is not None, "see jobs"
            start = self.gaussians.sample(self.data.y, self.streams())
            chain = lambda f, sampler: sampler(marginal(f), start, self.streams())  # noqa: E731
            x = self.moved(kind, calm, self.measured, self.langevin, chain)
            if calm:
                return x - start
            with tempfile.TemporaryDirectory() as folder:
                if kind in PACKAGE:
                    images.save(Path(folder, "samples.npz"), images.Images(images.to_bytes(x)))
                else:
                    pngs(x, folder)
            return None

        return Job("samples to the disk", run, float32=True)

    def robustness(self) -> Job:
        """Robust accuracy after an attack, and the energy of each image. Compared: the energies."""

        def run(kind: str, calm: bool) -> Tensor:
            x, net = self.moved(kind, calm, self.measured, self.attack, self.attacked), self.nets[kind]
            with torch.no_grad():
                right = net(x).argmax(1) == self.data.y
                energies = marginal(net)(x).double()
            return energies if calm else torch.stack([right.double(), energies])

        return Job("robust accuracy and energies", run, float32=True)

    def auto_pgd(self) -> Job:
        """The worst case of the cross-entropy; the plain implementation is its authors' release. Compared: the losses
        found."""
        from pyautoattack.autopgd_base import APGDAttack

        x, y, eps, steps = self.data.x, self.data.y, self.attack.eps, self.steps
        released = APGDAttack(self.nets["plain"], n_iter=steps, norm="Linf", eps=eps, loss="ce", device=str(x.device))
        released.init_hyperparam(x)
        energy = negative(unsaturated(self.net, y))

        def run(kind: str, calm: bool) -> Tensor:
            if kind in PACKAGE:
                with self.measured[kind].sampling(self.net) as f:
                    found = apgd(negative(unsaturated(f, y)), x, x, eps=eps, steps=steps, norm="linf")
            else:
                found = released.attack_single_run(x, y, x_init=x)[0].detach()
            with torch.no_grad():
                return energy(found) if calm else found

        return Job(f"Auto-PGD, {steps} steps", run, float32=True)

    def fisher(self) -> Job:
        """Fisher scores of E(x) and E(x, y); the plain implementation takes one image at a time."""
        linear = fisher.piecewise_linear(self.net)

        def scores(net: Network, of: slice) -> Tensor:
            x, y = self.data.x[of], self.data.y[of]
            if linear:
                return torch.stack(list(fisher.exact(net, x, y).values()))
            energies = [marginal(net)] + ([conditional(net, y)] if net.outputs > 1 else [])
            probes = fisher.Fisher.probes
            return torch.stack([fisher.hutchinson(energy, x, probes, self.streams(of)) for energy in energies])

        def run(kind: str, calm: bool) -> Tensor:
            if kind in PACKAGE:
                return scores(self.net, slice(None))
            return torch.cat([scores(self.nets[kind], slice(i, i + 1)) for i in range(len(self.data.x))], 1)

        return Job(f"Fisher scores, {'exact' if linear else 'hutchinson'}", run, float32=True)

    def features(self) -> Job:
        """Features of images in memory, by the network of FID, KID and Inception Score; the plain implementation is
        torch-fidelity, from a folder of PNGs."""
        from advebm.vision import torch_fidelity

        x, shape = self.data.x, self.context.shape
        judge = config.model(self.entry, "judge").network.build(shape, CLASSES).to(x.device).eval()
        using = network(config.build(quality.Quality, self.entry["quality"]), judge, shape[0], self.root)
        using.options["cuda"] = x.is_cuda
        options = using.options | {"feature_extractor": "inception-v3-compat" if using.weights else using.name}
        own = torch_fidelity.utils.create_feature_extractor(options["feature_extractor"], list(using.layers), **options)
        layer = using.layers[0]

        def run(kind: str, calm: bool) -> Tensor:
            if kind in PACKAGE:
                return using.features(images.to_bytes(x), "bench")[layer]
            with tempfile.TemporaryDirectory() as folder:
                pngs(x, folder)
                return torch_fidelity.utils.extract_featuresdict_from_input_id(1, own, input1=folder, **options)[layer]

        return Job(f"features of {'inception' if using.weights else 'judge'}", run, float32=True)
