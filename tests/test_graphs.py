"""Recorded passes (networks/graphs.py) without a GPU: a tape replaces the CUDA graph. Like a graph, it repeats the
operations on the same memory; what only a GPU can show is in test_gpu.py."""

from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from advebm.data.gaussians import Gaussians
from advebm.data.images import Images
from advebm.energy import grad, marginal, steepness
from advebm.evaluation import applications, ood, robustness
from advebm.networks import graphs
from advebm.networks.passes import Passes
from advebm.networks.wrn import WideResNet
from advebm.runtime import ranks
from advebm.samplers.apgd import AutoPGD
from advebm.samplers.recipes import SGLD
from advebm.samplers.sgld import Langevin


class Tape(TorchDispatchMode):
    """Records operations with their inputs and outputs."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.calls.append((function, args, kwargs or {}, result))
        return result

    def replay(self):
        for function, args, kwargs, result in self.calls:
            for old, new in zip(tree_leaves(result), tree_leaves(function(*args, **kwargs)), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.data.copy_(new)  # hidden from autograd, like the writes of a graph

    def pool(self):
        return "pool"


@pytest.fixture
def taped(monkeypatch):
    """Recording with tapes: the current stream, and the pool of each recording."""
    state = SimpleNamespace(stream="main", pools=[])

    @contextmanager
    def stream(chosen):
        before, state.stream = state.stream, chosen
        yield
        state.stream = before

    @contextmanager
    def graph(tape, *, pool, stream, capture_error_mode):
        state.pools.append(pool)
        with torch.cuda.stream(stream), tape:
            yield

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Tape)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: SimpleNamespace(wait_stream=lambda other: None))
    monkeypatch.setattr(torch.cuda, "stream", stream)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: state.stream)
    monkeypatch.setattr(torch.cuda, "set_stream", lambda chosen: setattr(state, "stream", chosen))
    return state


@pytest.fixture
def passes(taped):
    return Passes(graphs=True)


def net(norm="none"):
    torch.manual_seed(0)
    return WideResNet(depth=10, width=1, norm=norm).build((1, 8, 8), 3)


def images(count, seed=0):
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def slope(own, x, passes):
    with passes.sampling(own) as f:
        return grad(marginal(f), x)


@pytest.mark.parametrize("norm", ["none", "batch", "group"])
def test_a_replay_is_the_pass_of_the_weights_and_the_mode_as_they_are(passes, norm):
    own = net(norm)
    for seed, count in enumerate((4, 6, 4, 6)):
        for mode in (True, False):
            x = images(count, seed)
            torch.testing.assert_close(slope(own.train(mode), x, passes), slope(own, x, Passes()))
        with torch.no_grad():
            for weight in own.parameters():
                weight.mul_(1.1)
    assert all(passes.recorded.graphs.values()) and len(passes.recorded.graphs) in (2, 4)
    assert all(weight.requires_grad for weight in own.parameters())


def test_a_network_has_its_own_recordings(passes):
    for own in (net("none"), net("group")):
        x = images(4)
        torch.testing.assert_close(slope(own, x, passes), slope(own, x, Passes()))
        assert passes.recorded.trunk is own.trunk and all(passes.recorded.graphs.values())


class Watched(torch.nn.Module):
    """A layer that calls `watch` with its input."""

    def __init__(self, watch):
        super().__init__()
        self.watch = watch

    def forward(self, h):
        self.watch(h)
        return h


def test_all_of_a_recording_is_on_one_stream_and_in_one_pool(taped, passes):
    own, seen = net(), []
    own.trunk.append(Watched(lambda h: seen.append(taped.stream)))
    for count in (4, 6):
        slope(own, images(count), passes)
    assert seen == [passes.recorded.stream] * 2 * (graphs.WARM + 1) and taped.stream == "main"
    assert taped.pools == [None, "pool", "pool", "pool"]


def test_the_oldest_recording_is_released(passes, monkeypatch):
    monkeypatch.setattr(graphs, "KEPT", 2)
    own = net()
    for count in (4, 5, 6, 6):
        slope(own, images(count), passes)
    assert [key[0][0] for key in passes.recorded.graphs] == [5, 6]


def test_what_cannot_be_recorded_runs_and_its_pool_is_left(taped, passes):
    own, counts = net(), (4, 5, 6, 7)

    def short_of_memory(h):
        if len(h) == 5 and taped.stream != "main":
            raise torch.OutOfMemoryError

    own.trunk.append(Watched(short_of_memory))
    found = [slope(own, images(count), passes) for count in counts]
    assert [bool(made) for made in passes.recorded.graphs.values()] == [True, False, True, True]
    assert taped.pools == [None, "pool", None, "pool", "pool", "pool"] and taped.stream == "main"
    for count, x in zip(counts, found, strict=True):
        torch.testing.assert_close(x, slope(own, images(count), Passes()))


def test_a_pass_goes_back_once_and_before_the_next(passes):
    own, x = net().requires_grad_(False), images(4).requires_grad_()
    with passes.sampling(own) as f:
        first, second = marginal(f)(x).sum(), marginal(f)(x).sum()
        with pytest.raises(AssertionError, match="another went forward"):
            torch.autograd.grad(first, x)
        torch.autograd.grad(second, x, retain_graph=True)
        with pytest.raises(AssertionError, match="already went backward"):
            torch.autograd.grad(second, x)


def test_a_second_derivative_is_refused(passes):
    with passes.sampling(net()) as f, pytest.raises(AssertionError, match="second derivative"):
        steepness(f)(images(4))


def test_hooks_of_the_weights_outlive_a_recording(passes):
    """Like those of DistributedDataParallel, which hooks the gradient-accumulation nodes and keeps the nodes alive."""
    own, called = net(), []
    nodes = [weight.expand_as(weight).grad_fn.next_functions[0][0] for weight in own.parameters()]
    for node in nodes:
        node.register_hook(lambda *gradients: called.append(1))
    slope(own, images(4), passes)
    own(images(4)).sum().backward()
    assert all(passes.recorded.graphs.values()) and len(called) == len(nodes)


def test_what_is_measured_by_replays_is_what_is_measured_without(passes, monkeypatch):
    """Attacks on batches, the last one smaller; those on detection scores, whose batches shrink, are not recorded."""
    own = net().eval().requires_grad_(False)
    rng = np.random.default_rng(0)
    inside, outside = (Images(rng.integers(0, 256, (10, 8, 8, 1), dtype=np.uint8), np.arange(10) % 3) for _ in range(2))
    attacks = {on: robustness.Against(ascends=on, eps=0.1, steps=3) for on in ("ce", "energy", "target")}
    curve = robustness.Curve(radii=[0.05, 0.1], attack=AutoPGD(steps=4, restarts=2))
    detection = ood.Ood(radii={"l2": [1.0]}, attack=ood.Descents(steps=4, restarts=2))

    def measured():
        spec = robustness.Robustness(attacks=attacks, curve=curve)
        found = robustness.robustness(own, inside, spec, seed=0, batch=4)
        numbers, values = ood.ood(own, "energy", inside, {"noise": outside}, detection, seed=0, batch=4)
        losses = [
            torch.tensor(found.curve.loss),
            *(torch.tensor(values["noise"][key]) for key in ("in", "out", "worst")),
        ]
        return torch.cat(losses), {name: attack.accuracy for name, attack in found.attacks.items()}, numbers.json()

    without, same, others = measured()
    monkeypatch.setattr(Passes, "on", lambda device, precision: passes)
    by_replays, accuracies, numbers = measured()
    assert all(passes.recorded.graphs.values()) and sorted(key[0][0] for key in passes.recorded.graphs) == [2, 4]
    torch.testing.assert_close(by_replays, without)
    assert accuracies == same and numbers == others


@pytest.mark.parametrize("expression", ["1", "0 or 1", "1 and not 0"])
def test_classes_are_composed_where_chains_are_replayed(passes, expression):
    images = Images(np.random.default_rng(0).integers(0, 256, (30, 8, 8, 1), dtype=np.uint8), np.arange(30) % 3)
    chain = Langevin(steps=3, step_size=1.0, noise=0.01)
    own = SimpleNamespace(
        spec=applications.Applications(features="judge", n=6), subject=SimpleNamespace(about={"classes": 3}),
        make=SimpleNamespace(net=net(), passes=passes), judge=net(), device="cpu",
        gaussians=Gaussians.fit(images, ridge=0.01), part=lambda name, make: make(),
    )  # fmt: skip
    recipe = SGLD(recipe="sgld", start="gaussians", chain=chain)
    replayed, x = applications.Measuring.composed(own, expression, recipe)
    own.make.passes = Passes()
    plain, y = applications.Measuring.composed(own, expression, recipe)
    assert replayed == plain and np.array_equal(x, y)


def test_what_waits_for_other_processes_is_not_recorded(taped, monkeypatch):
    """Batch norm in training mode, whose statistics are over the images of all processes."""
    own = ranks.synchronised(net("batch"))
    recorded = graphs.Recorded(own.trunk)
    monkeypatch.setattr(ranks, "size", lambda: 2)
    monkeypatch.setattr(ranks, "total", lambda x: 2 * x)
    h = own.stem(images(4))
    for mode in (True, False):
        own.trunk.train(mode)
        torch.testing.assert_close(recorded(h), own.trunk(h))
    assert [bool(made) for made in recorded.graphs.values()] == [False, True]
