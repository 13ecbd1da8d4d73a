"""The plain implementation: samplers, attacks and replay buffer as the papers' published code writes them, in float32
and NCHW, with the buffer on the CPU. `advebm bench` times the package against it."""

import copy
from dataclasses import fields, replace

import torch
from torch import Tensor

from advebm.energy import Energy, NetworkEnergy
from advebm.methods.base import Method, ReplayMethod
from advebm.networks import Network
from advebm.samplers.buffer import Buffer, Replay, Start
from advebm.samplers.norms import NORMS
from advebm.samplers.pgd import Ascent, Attack
from advebm.samplers.proximal import Proximal
from advebm.samplers.sgld import Langevin
from advebm.samplers.streams import Streams


def network(net: Network) -> Network:
    """A copy with weights and activations in NCHW."""
    return copy.deepcopy(net).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def gradient(energy: Energy, x: Tensor) -> Tensor:
    """dE(x)/dx (JEM's sample_q)."""
    x = x.detach().clone().requires_grad_(True)
    return torch.autograd.grad(energy(x).sum(), [x], retain_graph=True)[0]


class PlainLangevin(Langevin):
    def __call__(self, energy: Energy, x: Tensor, streams: Streams | None = None) -> Tensor:
        velocity, mean, alpha = torch.zeros_like(x), torch.zeros_like(x), self.precondition
        levels = torch.logspace(0, 1, self.steps, base=(self.noise_last or self.noise) / self.noise if self.noise else 1.0)
        for k, level in enumerate(levels.tolist(), 1):
            g, noise = gradient(energy, x), self.noise * level * torch.randn_like(x)
            if self.clamp_grad is not None:
                g = torch.clamp(g, -self.clamp_grad, self.clamp_grad)
            if self.normalised:
                g = g / g.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            if alpha is not None:
                mean = mean + (1 - alpha) * (g**2 - mean)
                metric = 1e-5 + torch.sqrt(mean / (1 - alpha**k))
                g, noise = g / metric, noise / torch.sqrt(metric)
            velocity = self.momentum * velocity + g
            x = x - self.step_size * velocity + noise
            if self.clip:
                x = torch.clamp(x, 0, 1)
        return x.detach()


class PlainAttack(Attack):
    def __call__(self, energy: Energy, x: Tensor, streams: Streams | None = None) -> Tensor:
        step = 2.5 * self.eps / self.steps if self.step_size is None else self.step_size
        moved = x.clone()
        if self.random_start:  # the package's, so that results compare
            assert streams is not None, "a random start needs streams"
            moved = x + NORMS[self.norm].random_start(x.shape, self.eps, streams)
        velocity, points = torch.zeros_like(x), []
        for _ in range(self.steps):
            moved = moved.clamp(0, 1)
            points.append(moved)
            g = gradient(energy, moved)
            if self.momentum:
                g = velocity = self.momentum * velocity + g / g.flatten(1).norm(1, dim=1).view(-1, 1, 1, 1)
            if self.norm == "linf":
                moved = torch.clamp(moved - step * torch.sign(g), x - self.eps, x + self.eps)
            else:
                d = moved - step * g / g.flatten(1).norm(dim=1).view(-1, 1, 1, 1) - x
                moved = x + d * (self.eps / d.flatten(1).norm(dim=1)).clamp(max=1).view(-1, 1, 1, 1)
        moved = moved.clamp(0, 1).detach()
        if self.best:
            points.append(moved)
            best = torch.stack([energy(point).detach() for point in points]).argmin(0)
            moved = torch.stack(points)[best, torch.arange(len(x), device=x.device)]
        return moved


class PlainProximal(Proximal):
    def __call__(self, energy: Energy, x: Tensor, streams: Streams | None = None) -> Tensor:
        assert isinstance(energy, NetworkEnergy)
        stem, of_body = energy.f.stem, replace(energy, f=energy.f.body)
        for _ in range(self.outer):
            p = gradient(of_body, stem(x))
            for _ in range(self.inner):
                g = gradient(lambda v, p=p: stem(v) * p, x).clamp(-self.clamp_grad, self.clamp_grad)  # type: ignore[misc]
                x = (x - self.step_size * g).clamp(0, 1)
        return x.detach()


class PlainAscent(Ascent):
    def __call__(self, energy: Energy, x: Tensor, streams: Streams | None = None) -> Tensor:
        origin = x
        for _ in range(self.steps):
            g = gradient(energy, x)
            x = x - self.step_size * g / g.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            if self.eps is not None:
                d = x - origin
                x = origin + d * (self.eps / d.flatten(1).norm(dim=1)).clamp(max=1).view(-1, 1, 1, 1)
            x = x.clamp(0, 1)
        return x.detach()


class PlainBuffer(Buffer):
    """On the CPU. Draws a start for every chain, whether or not it restarts (JEM's sample_p_0); class Gaussians image by
    image (JEM++'s init_random)."""

    def __init__(self, replay: Replay, start: Start, seed: int, device: torch.device | str):
        super().__init__(replay, start, seed, device)
        self.kept = self.kept.cpu()

    def draw(self, step: int, count: int) -> tuple[Tensor, Tensor]:
        places = torch.randint(self.size, (count,))
        ids = torch.arange(count, device=self.device)
        groups = ids.split(1 if hasattr(self.start, "__self__") else count)  # a method of class Gaussians
        streams = (Streams(self.seed, "fresh", step, ids=group) for group in groups)
        fresh = torch.cat([self.start(own, places[own.ids.cpu()]).cpu() for own in streams])
        chosen = (torch.rand(count) < self.reinit).float()[:, None, None, None]
        x = chosen * fresh + (1 - chosen) * self.kept[places]
        return x.to(self.device), places.to(self.device)

    def store(self, places: Tensor, x: Tensor) -> None:
        self.kept[places.cpu()] = x.detach().cpu()


PLAIN = {Langevin: PlainLangevin, Attack: PlainAttack, Proximal: PlainProximal, Ascent: PlainAscent}


def part(sampler: object) -> object:
    """The plain implementation of a sampler or an attack, with the same numbers; other objects unchanged."""
    kind = PLAIN.get(type(sampler))
    return kind(**vars(sampler)) if kind else sampler


def method(fast: Method) -> Method:
    """The same method with the plain implementation of its samplers and attacks."""
    return replace(fast, **{own.name: part(getattr(fast, own.name)) for own in fields(fast)})


def buffer(method: Method) -> None:
    """Replace the replay buffer of a method that has begun by a plain one."""
    if isinstance(method, ReplayMethod):
        own = method.replay
        method.replay = PlainBuffer(method.buffer, own.start, own.seed, own.device)
