"""The numbers of a study, computed apart from the package: its data, networks, scores, attacks and distances written again.

Only torch, numpy, scipy, scikit-image and safetensors are imported. Images x are float32 (N, 1, H, W) in [0, 1]. Where the
package has a fast way this has the plain one, in float64 where that is cheap. Its attacks differ from the package's on
purpose: an exact projection onto ball and box, steps whose length falls as a cosine, with and without momentum, hops from
the best point, and, for the length of the gradient, a network whose kinks are smooth.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist
from scipy.stats import norm
from torch import Tensor
from torch.nn import functional as F

Score = Callable[[Tensor], Tensor]  # images (B, C, H, W) to (B,), high for in-distribution


# data and networks


def images(path: Path) -> tuple[Tensor, np.ndarray | None]:
    """x and the classes of a data or samples file."""
    with np.load(path) as file:
        x = torch.from_numpy(file["x"].astype(np.float32) / 255).permute(0, 3, 1, 2).contiguous()
        return x, file.get("y")


@dataclass
class Wrn:
    """WRN-d-k (Zagoruyko and Komodakis 2016, Table 1) with pre-activation blocks, without normalisation or with the running
    statistics of batch norm. `sharpness` b replaces each kink by a smooth curve that tends to it as b grows."""

    weights: dict[str, Tensor]
    header: dict
    sharpness: float | None = None

    @classmethod
    def load(cls, path: Path) -> "Wrn":
        with safe_open(path, framework="pt") as file:
            return cls({key: file.get_tensor(key) for key in file.keys()}, json.loads(file.metadata()["advebm"]))  # noqa: SIM118

    def smooth(self, sharpness: float) -> "Wrn":
        return Wrn(self.weights, self.header, sharpness)

    def bend(self, x: Tensor) -> Tensor:
        slope = {"leaky_relu": 0.2, "relu": 0.0}[self.header["network"]["activation"]]
        if self.sharpness is None:
            return F.leaky_relu(x, slope)
        return slope * x + (1 - slope) * F.softplus(x * self.sharpness) / self.sharpness

    def conv(self, name: str, x: Tensor, **how: int) -> Tensor:
        return F.conv2d(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], **how)

    def norm(self, name: str, x: Tensor) -> Tensor:
        w = self.weights
        if f"{name}.running_mean" not in w:
            return x
        mean, var, scale, shift = (
            w[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * scale + shift

    def features(self, x: Tensor) -> Tensor:
        about = self.header["network"]
        blocks = (about["depth"] - 4) // 6
        h = self.conv("stem.1", (x - about["mean"]) / about["std"], padding=1)
        for i in range(3 * blocks):
            name, stride = f"trunk.{i}", 2 if i in (blocks, 2 * blocks) else 1
            r = self.conv(f"{name}.residual.2", self.bend(self.norm(f"{name}.residual.0", h)), padding=1)
            r = self.conv(f"{name}.residual.5", self.bend(self.norm(f"{name}.residual.3", r)), stride=stride, padding=1)
            h = r + (self.conv(f"{name}.shortcut", h, stride=stride) if f"{name}.shortcut.weight" in self.weights else h)
        return self.bend(self.norm(f"trunk.{3 * blocks}", h)).mean((2, 3))

    def __call__(self, x: Tensor) -> Tensor:
        return self.features(x) @ self.weights["head.weight"].T + self.weights["head.bias"]


# classification


def wilson(p: float, n: int) -> tuple[float, float]:
    """The proportions q with |p - q| <= z sqrt(q (1 - q) / n) (Wilson 1927): the roots of a quadratic."""
    z = norm.ppf(0.975)
    low, high = sorted(np.roots([1 + z * z / n, -(2 * p + z * z / n), p * p]).real)
    return float(low), float(high)


def ece(p: np.ndarray, y: np.ndarray, bins: int = 20) -> float:
    """Guo et al. 2017, Eq. 3, from probabilities p (N, K)."""
    confidence, right, total = p.max(1), p.argmax(1) == y, 0.0
    for m in range(bins):
        inside = (confidence > m / bins) & (confidence <= (m + 1) / bins)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return float(total)


def ece_interval(p: np.ndarray, y: np.ndarray, resamples: int = 20000, seed: int = 3) -> tuple[float, float]:
    """The basic bootstrap's (Davison and Hinkley 1997, Eq. 5.6), from 0 on."""
    rng, e = np.random.default_rng(seed), ece(p, y)
    drawn = [ece(p[i], y[i]) for i in rng.integers(len(y), size=(resamples, len(y)))]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return max(2 * e - high, 0.0), max(2 * e - low, 0.0)


# detection


def energy(net: Callable) -> Score:
    """-E(x) = log sum_y exp f(x)[y] (Grathwohl et al. 2020, Eq. 6)."""
    return lambda x: torch.logsumexp(net(x), 1)


def grad_norm(net: Callable) -> Score:
    """-|dE(x)/dx|."""

    def score(x: Tensor) -> Tensor:
        keep = torch.is_grad_enabled()
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_(True)
            slope = torch.autograd.grad(torch.logsumexp(net(x), 1).sum(), x, create_graph=keep)[0]
            return -slope.square().sum((1, 2, 3)).sqrt()

    return score


def max_softmax(net: Callable) -> Score:
    """log max_y p(y | x), by differences of logits: it does not round to 0."""

    def score(x: Tensor) -> Tensor:
        top = net(x).sort(1, descending=True).values
        return -torch.log1p((top[:, 1:] - top[:, :1]).exp().sum(1).clamp_min(1e-30))

    return score


def auc(inside: np.ndarray, outside: np.ndarray) -> float:
    """Mann and Whitney's U over the number of pairs, pair by pair."""
    d = inside[:, None].astype(np.float64) - outside[None].astype(np.float64)
    return float((d > 0).mean() + (d == 0).mean() / 2)


def auc_interval(inside: np.ndarray, outside: np.ndarray) -> tuple[float, float]:
    """Wilson's interval for as many independent pairs as give DeLong's variance (DeLong et al. 1988, Eq. 5), at most one
    for each image, image by image."""
    wins = np.array([[1.0 if i > o else 0.5 if i == o else 0.0 for o in outside] for i in inside])
    p, m, n = wins.mean(), *wins.shape
    s10 = sum((row.mean() - p) ** 2 for row in wins) / (m - 1)
    s01 = sum((column.mean() - p) ** 2 for column in wins.T) / (n - 1)
    variance = s10 / m + s01 / n
    return wilson(p, min(p * (1 - p) / variance, m + n) if variance else min(m, n))


def fpr95(inside: np.ndarray, outside: np.ndarray) -> float:
    """The share of out-distribution images at or above the highest threshold that at least 95% of the others reach."""
    passing = [t for t in inside if (inside >= t).mean() >= 0.95]
    return float((outside >= max(passing)).mean())


# attacks


def into(z: Tensor, x: Tensor, eps: float, how: str) -> Tensor:
    """The point nearest to z in [0, 1] and in the ball around x; for L2 it is x + s (z - x), clipped, s by bisection."""
    if how == "linf":
        return torch.minimum(torch.maximum(z, x - eps), x + eps).clamp(0, 1)
    low, high = torch.zeros(len(x), 1, 1, 1), torch.ones(len(x), 1, 1, 1)
    for _ in range(25):
        s = (low + high) / 2
        fits = ((x + s * (z - x)).clamp(0, 1) - x).square().sum((1, 2, 3), keepdim=True) <= eps**2
        low, high = torch.where(fits, s, low), torch.where(fits, high, s)
    whole = (z.clamp(0, 1) - x).square().sum((1, 2, 3), keepdim=True) <= eps**2
    return (x + torch.where(whole, torch.ones_like(low), low) * (z - x)).clamp(0, 1)


def climb(
    aim: Score, score: Score, x: Tensor, z: Tensor, *, eps: float, how: str, steps: int, momentum: float, first: float
) -> Tensor:
    """The point of highest `score` on a path that ascends `aim` from z within eps of x. Steps have length `first` x eps,
    which falls as a cosine, along an average of directions."""
    z = into(z, x, eps, how)
    average, best, most = torch.zeros_like(x), z, torch.full((len(x),), -torch.inf)
    for k in range(steps + 1):
        z = z.detach().requires_grad_(True)
        value = aim(z)
        g = torch.autograd.grad(value.sum(), z)[0].nan_to_num()
        with torch.no_grad():
            reached = value if aim is score else score(z.detach())
        better = reached.detach() > most
        best, most = torch.where(better[:, None, None, None], z.detach(), best), torch.where(better, reached.detach(), most)
        length = first * eps * (0.5 + 0.5 * np.cos(np.pi * k / steps)) + 1e-3 * eps
        g = g / g.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-38)  # squares of tiny gradients underflow
        average = momentum * average + g / g.square().sum((1, 2, 3), keepdim=True).sqrt().clamp_min(1e-12)
        step = (
            average.sign()
            if how == "linf"
            else average / average.square().sum((1, 2, 3), keepdim=True).sqrt().clamp_min(1e-12)
        )
        z = into(z.detach() + length * step, x, eps, how)
    return best


def in_ball(x: Tensor, eps: float, how: str, rng: torch.Generator) -> Tensor:
    """A random point: for Linf a corner half of the time, for L2 on the sphere."""
    d = torch.randn(x.shape, generator=rng)
    if how == "linf":
        corner = torch.rand(len(x), 1, 1, 1, generator=rng) < 0.5
        return x + eps * torch.where(corner, d.sign(), 2 * torch.rand(x.shape, generator=rng) - 1)
    return x + eps * d / d.square().sum((1, 2, 3), keepdim=True).sqrt()


def worst(
    aims: list[Score],
    score: Score,
    x: Tensor,
    data: Tensor,
    *,
    eps: float,
    how: str,
    tries: int,
    steps: int = 60,
    seed: int = 7,
) -> tuple[Tensor, list[float]]:
    """The images of highest score found within eps of x, and the mean score after each try.

    Each try ascends one of `aims`, in turn, from four places at once: a random point (at first x); the way to one of the 40
    images of `data` of highest score; that to one of the 5 nearest; and a hop from the best point so far.
    """
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        best, likely = into(x, x, eps, how), data[score(data).argsort(descending=True)[:40]]
        most = score(best).detach()
    nearest, rows, means = torch.cdist(x.flatten(1), data.flatten(1)).argsort(1)[:, :5], torch.arange(len(x)), []
    for k in range(tries):
        starts = [
            in_ball(x, eps, how, rng) if k else x,
            likely[torch.randint(len(likely), (len(x),), generator=rng)],
            data[nearest[rows, torch.randint(nearest.shape[1], (len(x),), generator=rng)]],
            best + 0.5 * (in_ball(x, eps, how, rng) - x),
        ]
        momentum, first = (0.5, 0.75, 0.9, 0.0)[k % 4], (0.5, 0.25, 1.0)[k % 3]
        aim, centres = aims[k % len(aims)], x.repeat(len(starts), 1, 1, 1)
        found = climb(aim, score, centres, torch.cat(starts), eps=eps, how=how, steps=steps, momentum=momentum, first=first)
        for z in found.chunk(len(starts)):
            with torch.no_grad():
                reached = score(z).detach()
            better = reached > most
            best, most = torch.where(better[:, None, None, None], z, best), torch.where(better, reached, most)
        means.append(float(most.double().mean()))
    away = (best - x).abs().amax() if how == "linf" else (best - x).flatten(1).norm(dim=1).max()
    assert away <= eps + 1e-5 and best.min() >= 0 and best.max() <= 1
    return best, means


def shuffled(score: Score, x: Tensor, best: Tensor, *, eps: float, how: str, tries: int, seed: int = 8) -> Tensor:
    """Search without gradients: `best` moved by noise on some of the pixels, kept where that is better."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        most = score(best)
    for _ in range(tries):
        size = eps * float(10 ** (-2.5 * torch.rand(1, generator=rng)))
        noise = torch.randn(x.shape, generator=rng)
        keep = torch.rand(x.shape, generator=rng) < float(torch.rand(1, generator=rng)) ** 2 + 0.02
        noise = noise * keep
        if how == "l2":
            noise = noise / noise.flatten(1).norm(dim=1).clamp_min(1e-9)[:, None, None, None]
        z = into(best + size * noise, x, eps, how)
        with torch.no_grad():
            reached = score(z)
        better = reached.detach() > most
        best, most = torch.where(better[:, None, None, None], z, best), torch.where(better, reached.detach(), most)
    return best


def robust(
    net: Callable, x: Tensor, y: np.ndarray, *, eps: float, steps: int, tries: int, plain: bool, seed: int = 9
) -> np.ndarray:
    """Whether each image is classified correctly after every attack within Linf eps. `plain`: PGD (Madry et al. 2018) on
    the cross-entropy with steps of 2.5 eps / steps from random points, judged at its last step. Otherwise `climb` on the
    margin to one of the five likeliest other classes, in turn, judged at the best."""
    rng, labels = torch.Generator().manual_seed(seed), torch.from_numpy(y)
    alive = np.ones(len(x), dtype=bool)

    def margin(target: Tensor) -> Score:
        return lambda z: (lambda f: f.gather(1, target[:, None]) - f.gather(1, own[:, None]))(net(z))[:, 0]

    def missed(z: Tensor) -> Tensor:
        f = net(z)
        return f.scatter(1, own[:, None], -torch.inf).amax(1) - f.gather(1, own[:, None])[:, 0]

    for k in range(tries):
        left = np.flatnonzero(alive)
        if not len(left):
            break
        o, own = x[left], labels[left]
        z = in_ball(o, eps, "linf", rng) if not plain else o + eps * (2 * torch.rand(o.shape, generator=rng) - 1)
        if plain:
            for _ in range(steps):
                z = z.clamp(0, 1).detach().requires_grad_(True)
                g = torch.autograd.grad(F.cross_entropy(net(z).double(), own, reduction="sum"), z)[0]
                z = into(z.detach() + 2.5 * eps / steps * g.sign(), o, eps, "linf")
        else:
            with torch.no_grad():
                order = net(o).scatter(1, own[:, None], -torch.inf).argsort(1, descending=True)
            target = order[:, k % min(order.shape[1] - 1, 5)]
            z = climb(margin(target), missed, o, z, eps=eps, how="linf", steps=steps, momentum=(0.5, 0.9)[k % 2], first=0.5)
        with torch.no_grad():
            alive[left] = (net(z).argmax(1) == own).numpy()
    return alive


# sample quality


def stratified(y: np.ndarray, m: int, classes: int = 10) -> np.ndarray:
    """Indices of m images, the first m / K of each class, class after class in turn."""
    rows = [np.flatnonzero(y == k)[: m // classes] for k in range(classes)]
    each = min(map(len, rows))
    return np.stack([row[:each] for row in rows], 1).ravel()


def fid(a: np.ndarray, b: np.ndarray) -> float:
    """Heusel et al. 2017, Eq. 6, with a square root of the product of covariances."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    ca, cb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = np.trace(np.real(sqrtm(ca @ cb + 1e-12 * np.eye(len(ca)))))
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca) + np.trace(cb) - 2 * root)


def jackknife(a: np.ndarray, b: np.ndarray, groups: int = 10) -> float:
    """Efron 1982, Section 3: standard error of the distance of a to a fixed b, without each run of successive images."""
    values = np.array([fid(np.delete(a, part, 0), b) for part in np.array_split(np.arange(len(a)), groups)])
    return float(np.sqrt((groups - 1) / groups * ((values - values.mean()) ** 2).sum()))


def kid(a: np.ndarray, b: np.ndarray, y: np.ndarray | None = None, z: np.ndarray | None = None) -> float:
    """MMD^2, kernel (a' b / D + 1)^3 (Binkowski et al. 2018, Eq. 4). With classes y and z, as many images of each, the
    mean kernel of two images of one set is the mean over pairs of classes of the mean over pairs of different images."""
    a, b = a.astype(np.float64), b.astype(np.float64)

    def k(p: np.ndarray, q: np.ndarray) -> np.ndarray:
        return (p @ q.T / p.shape[1] + 1) ** 3

    def within(p: np.ndarray, c: np.ndarray | None) -> float:
        values, classes = k(p, p), np.zeros(len(p)) if c is None else c
        np.fill_diagonal(values, np.nan)
        names = np.unique(classes)
        return float(np.mean([[np.nanmean(values[classes == i][:, classes == j]) for i in names] for j in names]))

    return within(a, y) + within(b, z) - 2 * float(k(a, b).mean())


def kid_error(a: np.ndarray, b: np.ndarray, y: np.ndarray | None, z: np.ndarray | None, groups: int = 10) -> float:
    """Efron 1982, Section 3, for two samples: the variances without each run of successive images of a or b add up."""
    total = 0.0
    for of_a in (True, False):
        values = []
        for part in np.array_split(np.arange(len(a if of_a else b)), groups):
            p, c, q, d = a, y, b, z
            if of_a:
                p, c = np.delete(a, part, 0), None if y is None else np.delete(y, part)
            else:
                q, d = np.delete(b, part, 0), None if z is None else np.delete(z, part)
            values.append(kid(p, q, c, d))
        total += (groups - 1) * float(np.var(values))
    return total**0.5


def precision_recall(a: np.ndarray, b: np.ndarray, k: int = 3) -> tuple[float, float]:
    """Kynkaanniemi et al. 2019, Eq. 2: the share of samples a that an image of b has within its radius, that to its k-th
    neighbour, and the share of b that a sample has within its radius."""

    def covered(points: np.ndarray, centres: np.ndarray) -> float:
        radius = np.sort(cdist(centres, centres), 1)[:, k]  # column 0 is the point itself
        return float((cdist(points, centres) <= radius).any(1).mean())

    a, b = a.astype(np.float64), b.astype(np.float64)
    return covered(a, b), covered(b, a)


def inception_score(logits: np.ndarray, splits: int = 10) -> float:
    """Salimans et al. 2016: exp E KL(p(y | x) || p(y)), mean over parts of the images, in torch-fidelity's random order."""
    logits = logits[np.random.RandomState(2020).permutation(len(logits))]
    p = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    parts = np.array_split(p, splits)
    return float(np.mean([np.exp((q * (np.log(q + 1e-300) - np.log(q.mean(0)))).sum(1).mean()) for q in parts]))


# Fisher scores and neighbours


def fisher(of: Callable[[Tensor], Tensor], x: Tensor) -> np.ndarray:
    """.5 |grad E|^2 - tr Hess E of each image (Zhu et al. 2021, Eq. 23), of an energy E: the Hessian from its definition, a
    second derivative for each pixel. Those of a piecewise linear layer are 0."""
    x = x.double().requires_grad_(True)
    g = torch.autograd.grad(of(x).sum(), x, create_graph=True)[0].flatten(1)
    trace = torch.zeros(len(x), dtype=torch.float64)
    for i in range(g.shape[1]):
        row = torch.autograd.grad(g[:, i].sum(), x, retain_graph=True, allow_unused=True)[0] if g.requires_grad else None
        trace += 0 if row is None else row.flatten(1)[:, i]
    return (0.5 * g.detach().square().sum(1) - trace).numpy()


def nearest(a: Tensor, b: Tensor) -> np.ndarray:
    """L2 distances of images a to their nearest b."""
    return cdist(a.flatten(1).double().numpy(), b.flatten(1).double().numpy()).min(1)


def similar(a: Tensor, b: Tensor) -> np.ndarray:
    """The highest SSIM (Wang et al. 2004) of each image of a with one of b, by scikit-image."""
    from skimage.metrics import structural_similarity

    size = min(7, *a.shape[2:]) - 1 + min(7, *a.shape[2:]) % 2
    pairs = [
        [structural_similarity(p[0].double().numpy(), q[0].double().numpy(), win_size=size, data_range=1.0) for q in b]
        for p in a
    ]
    return np.array(pairs).max(1)
