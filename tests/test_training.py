import copy
import math

import pytest
import torch

from advebm import networks
from advebm.data.batches import Augmentation
from advebm.methods import METHODS
from advebm.methods.base import Context
from advebm.methods.standard import Standard
from advebm.networks.wrn import WideResNet
from advebm.training import SGD, Adam, Diverged, Schedule, Training, classification, fit, update_average

SPEC = WideResNet(depth=10, width=1)


def training(**changes):
    fields = {"epochs": 2, "batch": 20, "optimizer": Adam(name="adam", lr=1e-3), "record_every": 3}
    return Training(**{**fields, **changes})


def train(images, method=None, net=None, **changes):
    torch.manual_seed(0)
    net = net or SPEC.build(1, 3)
    records = []
    context = Context(0, (1, 4, 4), None, "cpu")
    kept = fit(
        method or Standard(),
        net,
        images,
        images,
        training(**changes),
        context,
        log=lambda step, r: records.append((step, r)),
    )
    return kept, records


def weights(net):
    return torch.cat([p.flatten() for p in net.state_dict().values()])


def test_same_seed_same_weights(images):
    a, records = train(images, augmentation=Augmentation(pad=1, noise=0.01))
    b, again = train(images, augmentation=Augmentation(pad=1, noise=0.01))
    assert torch.equal(weights(a), weights(b)) and records == again
    assert [step for step, _ in records] == [3, 6]


def test_training_learns(images):
    kept, records = train(images, epochs=40, record_every=30)
    assert classification(kept, images)["accuracy"] > 0.9
    assert records[-1][1]["train/ce"] < records[0][1]["train/ce"] / 2
    assert records[-1][1]["validation/accuracy"] == classification(kept, images)["accuracy"]


def test_first_step_is_torchs_sgd_on_the_loss(images):
    torch.manual_seed(0)
    net = SPEC.build(1, 3)
    start = copy.deepcopy(net)
    kept, _ = train(images, net=net, epochs=1 / 3, optimizer=SGD(name="sgd", lr=0.1, momentum=0.9, weight_decay=0.01))
    from advebm.data.batches import Batches

    x, y = Batches(images, 20, Augmentation(), 0, "cpu")(0)
    torch.nn.functional.cross_entropy(start(x), y).backward()
    for old, new in zip(start.parameters(), kept.parameters(), strict=True):
        assert torch.allclose(new, old - 0.1 * (old.grad + 0.01 * old), atol=1e-6)


def test_schedules():
    linear = Schedule(kind="linear", warmup=4)
    assert [linear(step, 10, 100) for step in (0, 3, 50)] == pytest.approx([0.25, 0.97, 0.5])
    steps = Schedule(kind="step", milestones=(2, 5), factor=0.1)
    assert [steps(step, 10, 100) for step in (0, 19, 20, 50)] == pytest.approx([1, 1, 0.1, 0.01])
    assert Schedule()(99, 10, 100) == 1


def test_average_of_weights_and_copied_statistics():
    net, average = (WideResNet(depth=10, width=1, norm="batch").build(1, 3) for _ in range(2))
    net.train()(torch.rand(4, 1, 8, 8))
    before = [p.clone() for p in average.parameters()]
    update_average(average.requires_grad_(False), net, 0.9)
    for old, new, kept in zip(before, net.parameters(), average.parameters(), strict=True):
        assert torch.allclose(kept, 0.9 * old + 0.1 * new, atol=1e-7)
    for new, kept in zip(net.buffers(), average.buffers(), strict=True):
        assert torch.equal(new, kept)


@pytest.mark.parametrize("changes", [{"optimizer": SGD(name="sgd", lr=1e6), "epochs": 5}, {"energy_bound": 0.1}])
def test_divergence_is_an_error_with_numbers(images, changes):
    with pytest.raises(Diverged, match=r"diverged at step \d+: \w+/\w+ is .*, bound"):
        train(images, **changes)


def test_frozen_restores_the_mode():
    net = SPEC.build(1, 3)
    for mode in (True, False):
        net.train(mode)
        with networks.frozen(net):
            assert not net.training
        assert net.training is mode


@pytest.mark.parametrize("norm", ["none", "batch", "group"])
@pytest.mark.parametrize("activation", ["leaky_relu", "silu"])
def test_networks_are_saved_and_loaded(tmp_path, norm, activation):
    net = WideResNet(depth=16, width=2, norm=norm, activation=activation).build(3, 5)
    x = torch.rand(2, 3, 8, 8)
    networks.save(tmp_path / "m.safetensors", net, study="s", method="m")
    read, header = networks.load(tmp_path / "m.safetensors")
    assert torch.equal(net.eval()(x), read(x)) and header["study"] == "s" and header["outputs"] == 5
    assert torch.equal(net.body(net.stem(x)), net(x)) and net.features(x).shape == (2, 128)
    networks.save(tmp_path / "again.safetensors", read, study="s", method="m")
    assert (tmp_path / "m.safetensors").read_bytes() == (tmp_path / "again.safetensors").read_bytes()


def test_wide_resnets_have_the_published_size():
    """WRN-28-10 has 36.5 M parameters (Zagoruyko and Komodakis 2016, Table 4), and its layers 28 convolutions deep."""
    net = WideResNet(depth=28, width=10, norm="batch").build(3, 10)
    assert 36.4e6 < sum(p.numel() for p in net.parameters()) < 36.6e6
    assert sum(1 for m in net.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (3, 3)) == 25
    x = torch.rand(1, 3, 32, 32)
    assert net.trunk[:-4](net.stem(x)).shape == (1, 640, 8, 8)
    assert math.isclose(net.stem[0](torch.ones(1)).item(), 1) and net.stem[0](torch.zeros(1)).item() == -1


def test_damaged_models_are_told(tmp_path):
    net = SPEC.build(1, 3)
    networks.save(tmp_path / "m.safetensors", net)
    content = (tmp_path / "m.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[:1000])
    (tmp_path / "other.safetensors").write_bytes(content.replace(b'\\"width\\": 1', b'\\"width\\": 2'))
    for name, message in (("none", "no model there"), ("cut", "damaged"), ("other", "weights do not fit")):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            networks.load(tmp_path / f"{name}.safetensors")


def test_methods_names_are_their_files():
    for name, kind in METHODS.items():
        assert kind.__module__ == f"advebm.methods.{name}"
