import copy
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from advebm import config, networks
from advebm.commands.train import OVERFITTED, Course
from advebm.data import sources
from advebm.data.batches import Augmentation, Batch, Batches
from advebm.data.gaussians import Gaussians
from advebm.data.images import Images, load, save
from advebm.evaluation.overfitting import overfitting, records
from advebm.methods import METHODS
from advebm.methods.base import Context
from advebm.methods.standard import Standard
from advebm.networks.flow import Glow, ResidualFlow
from advebm.networks.resnet import ResNet
from advebm.networks.wrn import WideResNet
from advebm.runtime import tracking
from advebm.runtime.state import Good, State
from advebm.samplers.buffer import Replay
from advebm.samplers.pgd import Ascent, Attack
from advebm.samplers.sgld import Langevin
from advebm.training import (
    ATTACKED,
    SGD,
    Adam,
    Diverged,
    Schedule,
    Training,
    attacked,
    built,
    captured,
    fit,
    restore,
    score,
    update_average,
)

SPEC = WideResNet(depth=10, width=1)


def training(**changes):
    fields = {"epochs": 2, "batch": 20, "optimizer": Adam(name="adam", lr=1e-3), "record_every": 3}
    return Training(**{**fields, **changes})


def train(images, method=None, net=None, **changes):
    torch.manual_seed(0)
    net = net or SPEC.build((1, 8, 8), 3)
    records = []
    context = Context(0, (1, 4, 4), 3, None, "cpu")
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


def test_a_training_sets_no_attributes_of_the_network(images):
    net = SPEC.build((1, 8, 8), 3)
    before = {name: set(vars(layer)) for name, layer in net.named_modules()}
    train(images, METHODS["at"](attack=Attack(eps=0.1, steps=1)), net, precision="bf16")
    assert {name: set(vars(layer)) for name, layer in net.named_modules()} == before


def test_training_learns(images):
    kept, records = train(images, epochs=40, record_every=30)
    assert score(Standard(), kept, images)["accuracy"] > 0.9
    assert records[-1][1]["train/ce"] < records[0][1]["train/ce"] / 2
    assert records[-1][1]["validation/accuracy"] == score(Standard(), kept, images)["accuracy"]


def test_a_training_by_one_step_records_its_accuracy_under_attacks(images):
    method = METHODS["at"](attack=Attack(eps=0.1, steps=1, step_size=0.125))
    kept, found = train(images, method, epochs=20, record_every=60)
    under = attacked(method, kept, images[:ATTACKED])
    assert {name: found[-1][1][f"{name}/accuracy"] for name in under} == under
    assert under["pgd"] <= under["fgsm"] <= score(method, kept, images)["accuracy"] and under["fgsm"] > 0
    _, found = train(images, METHODS["at"](attack=Attack(eps=0.1, steps=2)))
    assert not any("fgsm" in name for name in found[-1][1])


def course(accuracies):
    """Records, from (FGSM, PGD) at each."""
    return [
        {"step": 10 * i, "validation/accuracy": 0.9, "fgsm/accuracy": fgsm, "pgd/accuracy": pgd}
        for i, (fgsm, pgd) in enumerate(accuracies)
    ]


OVERFITS = course([(0.3, 0.25), (0.5, 0.4), (0.55, 0.3), (0.9, 0.1), (0.95, 0.0)])


def test_catastrophic_overfitting_is_one_step_withstood_and_pgd_not():
    found = overfitting(OVERFITS)
    assert found.step == 30 and "from step 10 to 30" in found.sign
    assert "under PGD fell from 0.4 to 0.1, and under one step rose from 0.5 to 0.9" in found.sign
    for healthy in ([], [{"step": 5, "validation/accuracy": 0.5}], course([(0.5, 0.4), (0.45, 0.1)]), OVERFITS[:3]):
        assert overfitting(healthy) is None
    warm = [{**record, "step": record["step"] - 40} for record in OVERFITS]
    assert overfitting([*warm, {"step": 5, "train/loss": 1.0}]).step == -10


def test_catastrophic_overfitting_is_told_once_in_the_bar_a_line_and_the_curves(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ADVEBM_TRACKING", "off")
    good = Good({}, {"step": 0, "rows": [], "recoveries": [], "run": None})
    with tracking.run("train", "tiny", "at", params={}) as run:
        mine = Course(State(tmp_path / "state"), good, run, "tiny at", tmp_path / "out", [])
        for record in OVERFITS:
            assert (OVERFITTED in mine.bar) == (record["step"] > 30)
            mine.log(record["step"], {name: value for name, value in record.items() if name != "step"})
        assert mine.bar[OVERFITTED] == "since step 30" and mine.bar["under PGD"] == "0"
        mine.log(1_234_567, {"train/ce": 1 / 3})
    told = capsys.readouterr().err
    assert told.count("advebm: warning: tiny at: training overfitted catastrophically") == 1
    found = records(tmp_path / "out/curves.csv")
    assert overfitting(found[:-1]) == overfitting(OVERFITS)
    assert found[-1] == {"step": 1_234_567, "train/ce": 0.333333}


def test_the_bar_shows_how_it_goes_and_the_memory_of_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: 3 * 2**29)
    mine = Course(State(tmp_path), Good({}, {"step": 0, "rows": [], "recoveries": []}), None, "tiny at", tmp_path, [])
    mine.note({"train/loss": 0.25, "train/energy_gap": -1.0, "validation/accuracy": 0.5, "lr": 1.0})
    assert mine.bar == {"loss": "0.25", "energy gap": "-1", "accuracy": "0.5", "GPU": "1.5 GiB"}


def test_first_step_is_torchs_sgd_on_the_loss(images):
    torch.manual_seed(0)
    net = SPEC.build((1, 8, 8), 3)
    start = copy.deepcopy(net)
    kept, _ = train(images, net=net, epochs=1 / 3, optimizer=SGD(name="sgd", lr=0.1, momentum=0.9, weight_decay=0.01))
    x, y, *_ = Batches(images, 20, Augmentation(), 0, "cpu")(0)
    torch.nn.functional.cross_entropy(start(x), y).backward()
    for old, new in zip(start.parameters(), kept.parameters(), strict=True):
        assert torch.allclose(new, old - 0.1 * (old.grad + 0.01 * old), atol=1e-6)


def test_schedules():
    linear = Schedule(kind="linear", warmup=4)
    assert [linear(step, 10, 100) for step in (0, 3, 50)] == pytest.approx([0.25, 0.97, 0.5])
    steps = Schedule(kind="step", milestones=(2, 5), factor=0.1)
    assert [steps(step, 10, 100) for step in (0, 19, 20, 50)] == pytest.approx([1, 1, 0.1, 0.01])
    assert Schedule()(99, 10, 100) == 1
    cosine = Schedule(kind="cosine")
    assert [cosine(step, 10, 100) for step in (0, 50, 100)] == pytest.approx([1, 0.5, 0])


def test_average_of_weights_and_copied_statistics():
    net, average = (WideResNet(depth=10, width=1, norm="batch").build((1, 8, 8), 3) for _ in range(2))
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


@pytest.mark.parametrize("method", [Standard(), METHODS["jem"](sampler=Langevin(steps=1, step_size=0.1, noise=0.005))])
def test_a_dead_network_is_divergence(images, method):
    net = SPEC.build((1, 8, 8), 3)
    for weight in net.parameters():
        weight.data.zero_()
    with pytest.raises(Diverged, match="diverged at step 3: the network is dead, its outputs for 60 validation images"):
        train(images, method, net)


@pytest.mark.parametrize("clip", [True, False])
def test_chains_at_the_corners_of_the_box_are_divergence(images, clip):
    method = METHODS["jem"](sampler=Langevin(steps=2, step_size=1e6, noise=0.005, clip=clip), buffer=Replay(size=60))
    with pytest.raises(
        Diverged, match=r"diverged at step 3: the chains have left the images, 0(\.0\d*)? of .*, of the data's"
    ):
        train(images, method, energy_bound=1e9)


def test_plain_objective_diverges_where_bce_stays_bounded():
    """AE, Section 5.3."""
    images = sources.labelled("digits", config.Path())["all"][:200]

    def run(objective):
        method = METHODS["at_ebm"](ascent=Ascent(steps=3, step_size=0.2), start=("uniform",), objective=objective)
        net = SPEC.build((1, 8, 8), 1)
        return train(
            images, method, net, epochs=15, record_every=10, optimizer=Adam(name="adam", lr=3e-3), energy_bound=1000
        )

    _, records = run("bce")
    assert len(records) == 15 and all(abs(r["train/energy_gap"]) < 100 for _, r in records)
    with pytest.raises(Diverged, match=r"train/(loss|energy\w*) is -?[\d.e+]+, bound 1000"):
        run("ebm")


def test_changes_of_energy_by_attack_and_step(images):
    """JT, Fig. 3, for a training of one step, with everything written out."""
    torch.manual_seed(0)
    net = SPEC.build((1, 4, 4), 3)
    start = copy.deepcopy(net)
    method = METHODS["prejeat"](attack=Attack(eps=0.1, steps=1, random_start=False))
    kept, [(_, record)] = train(images, method, net, epochs=1 / 3)
    x, y, *_ = Batches(images, 20, Augmentation(), 0, "cpu")(0)
    method.begin(Context(0, (1, 4, 4), 3, None, "cpu"))
    x_adv = method.loss(start, Batch(x, y), 0).x_adv
    joint = lambda net, x: -net(x)[torch.arange(20), y].mean().item()  # noqa: E731
    assert record["delta_x/joint"] == pytest.approx(joint(start, x_adv) - joint(start, x), abs=1e-5)
    assert record["delta_theta/joint"] == pytest.approx(joint(kept, x_adv) - joint(start, x_adv), abs=1e-5)
    total = lambda net, x: -net(x).exp().sum(1).log().mean().item()  # noqa: E731
    assert record["delta_x/marginal"] == pytest.approx(total(start, x_adv) - total(start, x), abs=1e-5)
    assert record["delta_theta/marginal"] == pytest.approx(total(kept, x_adv) - total(start, x_adv), abs=1e-5)
    assert record["delta_x/joint"] > 0


def tiny(name, training=None, **more):
    """Train a method as in the study tiny, on 64 noise images: the network, and the records by step."""
    model = config.model(config.read(config.Path("params.yaml"), "tiny"), name)
    rng = np.random.default_rng(0)
    x, out = (Images(rng.integers(0, 256, (64, 8, 8, 1), dtype=np.uint8), np.arange(64) % 10) for _ in range(2))
    torch.manual_seed(0)
    net = model.network.build((1, 8, 8), model.method.outputs(10))
    records = {}
    context = Context(0, (1, 8, 8), 10, Gaussians.fit(x, ridge=0.01), "cpu")
    changed = replace(model.training, epochs=3, record_every=2, **(training or {}))
    return fit(model.method, net, x, x, changed, context, log=records.__setitem__, outliers=out, **more), records


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_training_goes_on_from_what_it_kept(name):
    kept = {}
    whole, records = tiny(name, keep=kept.__setitem__)
    step = min(kept)
    assert step < max(kept)
    before = {key: value.clone() for key, value in kept[step].items()}
    for _ in range(2):
        resumed, rest = tiny(name, start=step, state=kept[step])
        assert torch.equal(weights(resumed), weights(whole))
        assert rest == {key: value for key, value in records.items() if key > step}
    assert all(torch.equal(before[key], value) for key, value in kept[step].items()), "resuming must not modify the state"


@pytest.mark.parametrize("spec", [SGD(name="sgd", lr=0.1), Adam(name="adam", lr=0.1)])
def test_what_an_optimiser_recalls_lies_in_memory_as_its_weights(tmp_path, spec):
    """Also after loading from the disk: fused optimisers require the strides of the weights."""
    made = []
    for _ in range(2):
        net = SPEC.build((1, 8, 8), 3)
        optimizer = built(spec, net)
        net(torch.rand(4, 1, 8, 8)).sum().backward()
        optimizer.step()
        made.append((net, optimizer))
    (net, optimizer), (other, restored) = made
    method = Standard()
    State(tmp_path).save(Good(captured(net, None, optimizer, method), {}))
    restore(State(tmp_path).load().tensors, other, None, restored, method)
    for weight, twin in zip(net.parameters(), other.parameters(), strict=True):
        for name, x in restored.state[twin].items():
            assert torch.equal(torch.as_tensor(optimizer.state[weight][name]), torch.as_tensor(x))
            assert name == "step" or x.stride() == twin.stride() == weight.stride()


@pytest.mark.parametrize("name", sorted(METHODS))
def test_methods_that_attack_record_the_changes(name):
    attacks = {"noise", "at", "prejeat", "jeat", "robust_jem", "ratio", "at_ebm", "weat", "eb_jdat", "dat"}
    _, records = tiny(name)
    records = list(records.values())
    kinds = ["marginal"] if name == "at_ebm" else ["joint", "marginal"]
    expected = {f"{what}/{kind}" for what in ("delta_x", "delta_theta") for kind in kinds} if name in attacks else set()
    assert {key for key in records[-1] if key.startswith("delta")} == expected
    assert all(math.isfinite(value) for value in records[-1].values())


def test_frozen_restores_the_mode():
    net = SPEC.build((1, 8, 8), 3)
    for mode in (True, False):
        net.train(mode)
        with networks.frozen(net):
            assert not net.training
        assert net.training is mode


@pytest.mark.parametrize("norm", ["none", "batch", "group"])
@pytest.mark.parametrize("activation", ["leaky_relu", "silu"])
def test_networks_are_saved_and_loaded(tmp_path, monkeypatch, norm, activation):
    net = WideResNet(depth=16, width=2, norm=norm, activation=activation).build((3, 8, 8), 5)
    x = torch.rand(2, 3, 8, 8)
    networks.save(tmp_path / "m.safetensors", net, study="s", method="m")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    read, header = networks.load(tmp_path / "m.safetensors")
    assert torch.backends.cudnn.allow_tf32, "loading must not change the process's settings"
    assert torch.equal(net.eval()(x), read(x)) and header["study"] == "s" and header["outputs"] == 5
    assert torch.equal(net.body(net.stem(x)), net(x)) and net.features(x).shape == (2, 128)
    networks.save(tmp_path / "again.safetensors", read, study="s", method="m")
    assert (tmp_path / "m.safetensors").read_bytes() == (tmp_path / "again.safetensors").read_bytes()


@pytest.mark.parametrize(
    "spec",
    [
        WideResNet(depth=10, width=1, spectral=True),
        WideResNet(depth=10, width=1, activation="relu"),
        *(ResNet(depth=18, norm=norm) for norm in ("frozen", "batch", "none")),
        Glow(kind="glow", levels=2, blocks=1, hidden=4),
        ResidualFlow(kind="residual_flow", levels=2, blocks=1, hidden=4),
    ],
    ids=lambda spec: f"{spec.kind} {getattr(spec, 'norm', '')} {getattr(spec, 'activation', '')}",
)
def test_networks_of_every_kind_are_saved_and_loaded(tmp_path, spec):
    torch.manual_seed(0)
    net = spec.build((3, 8, 8), 1)
    x = torch.rand(2, 3, 8, 8)
    net(x)  # a flow initialises itself from its first batch
    net.eval()
    networks.save(tmp_path / "m.safetensors", net)
    read, header = networks.load(tmp_path / "m.safetensors", about={"shape": [3, 8, 8], "classes": 10})
    assert torch.equal(net(x), read(x)) and net(x).shape == (2, 1) and header["network"]["kind"] == spec.kind
    assert torch.equal(copy.deepcopy(net)(x), net(x))
    with pytest.raises(ValueError, match="it belongs to another study"):
        networks.load(tmp_path / "m.safetensors", about={"shape": [1, 8, 8], "classes": 10})
    if hasattr(net, "features"):
        assert torch.equal(net.head(net.features(x)), net(x)) and torch.equal(net.body(net.stem(x)), net(x))


def test_resnet_50_is_the_papers(images):
    net = ResNet(depth=50).build((3, 32, 32), 10)
    assert sum(p.numel() for p in net.parameters()) == 23_520_842  # ImageNet's has 25,557,032; the stem and head differ
    x = torch.rand(1, 3, 32, 32)
    assert net.trunk[:-2](net.stem(x)).shape == (1, 2048, 4, 4)
    batch_norms = [m for m in net.train().modules() if isinstance(m, torch.nn.BatchNorm2d)]
    net(x)
    assert len(batch_norms) == 53 and not any(m.training for m in batch_norms)
    assert all((m.running_mean == 0).all() and (m.running_var == 1).all() for m in batch_norms)
    assert all(m.weight.requires_grad for m in batch_norms)


def test_spectral_normalisation_bounds_every_layer():
    torch.manual_seed(0)
    net = WideResNet(depth=10, width=1, spectral=True).build((1, 8, 8), 3)
    for _ in range(30):
        net(torch.rand(2, 1, 8, 8))
    layers = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    for layer in layers:
        assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1, abs=0.1)


def test_flows_need_images_that_divide():
    with pytest.raises(ValueError, match="sides are multiples of 8, not 28x28"):
        Glow(kind="glow", levels=3).build((1, 28, 28), 1)
    with pytest.raises(ValueError, match="one output"):
        Glow(kind="glow", levels=1).build((1, 28, 28), 10)


def test_wide_resnets_have_the_published_size():
    """WRN-28-10 has 36.5 M parameters (Zagoruyko and Komodakis 2016, Table 4) and 25 convolutions of 3x3."""
    net = WideResNet(depth=28, width=10, norm="batch").build((3, 32, 32), 10)
    assert 36.4e6 < sum(p.numel() for p in net.parameters()) < 36.6e6
    assert sum(1 for m in net.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (3, 3)) == 25
    x = torch.rand(1, 3, 32, 32)
    assert net.trunk[:-4](net.stem(x)).shape == (1, 640, 8, 8)
    assert math.isclose(net.stem[0](torch.ones(1)).item(), 1) and net.stem[0](torch.zeros(1)).item() == -1


def test_damaged_models_are_told(tmp_path):
    net = SPEC.build((1, 8, 8), 3)
    networks.save(tmp_path / "m.safetensors", net)
    content = (tmp_path / "m.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[:1000])
    (tmp_path / "other.safetensors").write_bytes(content.replace(b'\\"width\\": 1', b'\\"width\\": 2'))
    net.spec = replace(net.spec, depth=16)
    networks.save(tmp_path / "deep.safetensors", net)
    for name, message in (
        ("none", "no such model file"),
        ("cut", "damaged"),
        ("other", "tensors do not have the sizes"),
        ("deep", "weights do not fit"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            networks.load(tmp_path / f"{name}.safetensors")


def test_a_flipped_bit_is_found_in_every_file_that_a_later_stage_reads(tmp_path, images):
    """One bit in each of 300 bytes: at the beginning, at the end and in between. What is read is what was written."""
    networks.save(tmp_path / "model", SPEC.build((1, 8, 8), 3))
    Gaussians(torch.rand(2, 4), torch.eye(4).repeat(2, 1, 1), (1, 2, 2)).save(tmp_path / "gaussians")
    save(tmp_path / "images", images)
    readers = {
        "model": lambda path: networks.load(path)[0].state_dict(),
        "gaussians": lambda path: {"mean": Gaussians.load(path).mean, "factor": Gaussians.load(path).factor},
        "images": lambda path: {"x": torch.from_numpy(load(path).x), "y": load(path).labels()},
    }
    for name, read in readers.items():
        content, written, found = (tmp_path / name).read_bytes(), read(tmp_path / name), 0
        rng, end = np.random.default_rng(0), len(content)
        for place in {*range(100), *range(end - 100, end), *rng.integers(end, size=100).tolist()}:
            damaged = bytearray(content)
            damaged[place] ^= 1 << rng.integers(8)
            (tmp_path / "damaged").write_bytes(damaged)
            try:
                values = read(tmp_path / "damaged")
            except ValueError as error:
                assert str(error).startswith(f"{tmp_path}/damaged: "), place
                found += 1
            else:  # in what nothing reads, such as the time in a zip file
                assert all(torch.equal(values[key], value) for key, value in written.items()), place
        assert found > 150, name


def test_models_of_earlier_versions_are_read_with_a_warning(tmp_path, capsys):
    net = SPEC.build((1, 8, 8), 3)
    networks.save(tmp_path / "m.safetensors", net)
    header = {key: value for key, value in networks.header(tmp_path / "m.safetensors").items() if key != "sha256"}
    weights = {name: x.contiguous() for name, x in net.state_dict().items()}
    save_file(weights, tmp_path / "old.safetensors", {"advebm": json.dumps(header)})
    assert networks.load(tmp_path / "old.safetensors")[1] == networks.load(tmp_path / "m.safetensors")[1] == header
    assert capsys.readouterr().err.startswith(f"advebm: {tmp_path}/old.safetensors: has no sha256")


def test_methods_names_are_their_files():
    for name, kind in METHODS.items():
        assert kind.__module__ == f"advebm.methods.{name}"
