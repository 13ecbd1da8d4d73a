"""advebm.load and what it returns."""

import csv
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

import advebm
from advebm import cli, networks
from advebm.data import images
from advebm.data.given import labels, pixels
from advebm.networks.wrn import WideResNet
from advebm.runtime.extras import EXTRAS
from advebm.runtime.parts import SEED
from advebm.samplers.pgd import Attack
from advebm.samplers.recipes import Targeted
from advebm.samplers.streams import Streams
from test_bad_input import error_of, params_file

EXAMPLES = re.findall(r"```python\n(.*?)```", Path("docs/api.md").read_text(), re.S)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """The data, class Gaussians and three models of tiny, in the places of digits, and samples."""
    tree = tmp_path_factory.mktemp("tree")
    other = {"recipe": "sgld", "start": "uniform", "chain": {"steps": 1, "step_size": 1.0, "noise": 0.01}}
    params = params_file(tree, {"sampling.robust_jem.again": other})
    given = "--data {t}/data/digits --gaussians {t}/models/digits/gaussians.safetensors"
    for line in (
        "prepare --out {t}/data/digits",
        "gaussians --data {t}/data/digits --out {t}/models/digits/gaussians.safetensors",
        *(f"train {method} {given} --out {{t}}/models/digits/{method}" for method in ("robust_jem", "at_ebm", "glow")),
        f"sample robust_jem {given} --model {{t}}/models/digits/robust_jem/model.safetensors --out {{t}}/samples",
    ):
        sys.argv = ["advebm", *(line + params).format(t=tree).split(), "--quiet"]
        cli.main()
    return tree


@pytest.fixture(scope="module")
def test_images(tree):
    return images.load(tree / "data/digits/test.npz")


def model(tree, method="robust_jem"):
    return advebm.load(tree / "models/digits" / method)


def test_the_examples_of_the_documentation(tree, monkeypatch):
    monkeypatch.chdir(tree)
    names = {}
    for example in EXAMPLES:
        exec(example, names)
    assert len(EXAMPLES) == 6 and names["images"].shape == (16, 1, 8, 8) and names["p"].shape == (100, 10)
    assert names["joint"].shape == (100,) and names["changed"].shape == (8, 1, 8, 8) and 0 <= names["robust"] <= 1
    assert names["larger"].shape == (4, 1, 8, 8) and names["path"].shape == (6, 4, 1, 8, 8)
    assert names["rows"].shape == (4, 9, 1, 8, 8)


@pytest.mark.parametrize("script", sorted(Path("examples").glob("*.py")), ids=lambda script: script.stem)
def test_the_notebooks(tree, monkeypatch, script):
    script = script.resolve()
    monkeypatch.chdir(tree)
    figures = []
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: figures.append(plt.gcf()))
    runpy.run_path(str(script))
    plt.close("all")
    assert figures and re.match(r"# %% \[markdown\]\n# # ", script.read_text())


def test_the_base_installation_suffices(tree):
    """Without the packages of the extras, and `import advebm` alone imports neither torch nor numpy."""
    script = f"""
import sys
sys.modules |= dict.fromkeys({[*EXTRAS]})
import advebm
assert not {{"torch", "numpy"}} & sys.modules.keys()
model = advebm.load("{tree}/models/digits/robust_jem")
x = model.sample(3)
model.attack(x, model.classify(x).y, eps=0.1), model.score(x)
try:
    advebm.load("{tree}/models/digits/glow")
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("this needs normflows, which is not installed: "), done.stderr


@pytest.mark.parametrize("method", ["robust_jem", "at_ebm", "glow"])
def test_the_threshold_lets_95_percent_of_the_validation_images_pass(tree, method):
    own, x = model(tree, method), np.load(tree / "data/digits/validation.npz")["x"]
    score = own.score(x).double().numpy()
    assert np.sort(score)[len(score) // 20] == pytest.approx(own.threshold, rel=1e-5, abs=1e-5)
    assert torch.allclose(own.score(x), -own.energy(x))


def test_values_are_those_of_the_network(tree, test_images):
    own = model(tree)
    net, _ = networks.load(tree / "models/digits/robust_jem/model.safetensors")
    logits, y = net(test_images.pixels()), test_images.labels()
    seen, p = own.classify(test_images.x)
    assert torch.equal(seen, logits.argmax(1)) and torch.allclose(p, logits.softmax(1))
    assert torch.allclose(own.energy(test_images.x), -logits.exp().sum(1).log(), atol=1e-5)
    assert torch.allclose(own.energy(test_images.x, y), -logits[torch.arange(len(y)), y])
    assert torch.allclose(own.energy(test_images.x, 3), -logits[:, 3])


def test_batches_do_not_matter(tree, test_images, monkeypatch):
    own, x, y = model(tree), test_images.x[:10], test_images.y[:10]
    whole = [own.score(x), own.sample(10, seed=3), own.attack(x, y, eps=0.1, steps=2)]
    monkeypatch.setattr("advebm.api.BATCH", 3)
    for one, other in zip(whole, [own.score(x), own.sample(10, seed=3), own.attack(x, y, eps=0.1, steps=2)], strict=True):
        assert torch.allclose(one, other, atol=1e-4)


def test_samples_are_those_of_the_command(tree):
    own = model(tree)
    assert list(own.recipes) == ["combined", "sgld", "again"]
    for name in own.recipes:
        made = images.load(tree / f"samples/{name}.npz")
        assert np.array_equal(images.to_bytes(own.sample(len(made.x), recipe=name, seed=SEED)), made.x)
    assert not torch.equal(own.sample(3, seed=1), own.sample(3, seed=2))
    some = own.sample(20, seed=1)
    assert torch.allclose(own.sample(3, y=[0, 1, 2], seed=1), some[:3], atol=1e-5)
    assert torch.allclose(own.sample(20, y=3, seed=1)[13], some[13], atol=1e-5)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_attacks_reach_their_aim_within_their_ball(tree, test_images, norm):
    own, eps = model(tree), {"linf": 0.1, "l2": 1.0}[norm]
    x, y = test_images.pixels(), test_images.labels()
    for targeted in (False, True):
        x_adv = own.attack(x, y, eps=eps, norm=norm, targeted=targeted)
        moved = (x_adv - x).flatten(1)
        assert (moved.abs().amax(1) if norm == "linf" else moved.norm(dim=1)).max() <= eps + 1e-5
        before, after = (own.classify(images).p[torch.arange(100), y].mean() for images in (x, x_adv))
        assert bool(after > before) is targeted and x_adv.min() >= 0 and x_adv.max() <= 1


def test_applications_keep_what_is_known(tree, test_images, monkeypatch):
    own, x = model(tree), test_images.pixels()[:7]
    mask = torch.rand(7, 8, 8, generator=torch.Generator().manual_seed(0)) < 0.5
    filled = own.inpaint(x, mask, frames=2)
    assert torch.equal(filled[-1][:, 0][mask], x[:, 0][mask]) and not torch.equal(filled[0], filled[-1])
    painted = own.paint(x, ~mask, 3, frames=2)
    assert torch.equal(painted[-1][:, 0][mask], x[:, 0][mask]) and torch.equal(painted[0], x)
    assert own.energy(painted[-1], 3).mean() < own.energy(x, 3).mean()
    low = torch.nn.functional.avg_pool2d(x, 2)
    found = own.restore(low, steps=1)
    unclamped = (found > 0).all(1) & (found < 1).all(1)  # where a block has a clamped pixel its mean may differ
    whole = torch.nn.functional.avg_pool2d(unclamped.float()[:, None], 2) == 1
    assert torch.allclose(torch.nn.functional.avg_pool2d(found, 2)[whole], low[whole], atol=1e-5)
    assert torch.equal(own.denoise(x, 0.1, steps=0), x) and not torch.equal(own.denoise(x, 0.1), x)
    rows = own.interpolate(x, x.flip(0), columns=3, steps=0)
    assert torch.equal(rows[:, 0], x) and torch.equal(rows[:, 2], x.flip(0))
    assert torch.allclose(rows[:, 1], (x + x.flip(0)) / 2)

    def applied():
        yield own.inpaint(x, mask, seed=3)
        yield own.paint(x, mask, [1, 2, 3, 4, 5, 6, 7], seed=3)
        yield own.translate(x, seed=3)
        yield own.compose("3 or 8", 7, others={"b": own})

    many = list(applied())
    monkeypatch.setattr("advebm.api.BATCH", 3)
    for one, other in zip(many, applied(), strict=True):
        assert torch.allclose(one, other, atol=1e-4)


def test_a_composition_of_one_class_is_a_chain_on_its_energy(tree):
    own, ids = model(tree), torch.arange(5)
    chain = own.recipes["sgld"].chain
    streams = Streams(4, "compose", "3", "sgld", ids=ids)
    start = own.gaussians.sample(torch.full((5,), 3), streams)
    expected = chain(lambda x: -own.net(x)[:, 3], start, streams).clamp(0, 1)
    assert torch.allclose(own.compose("3", 5, "sgld", seed=4), expected, atol=1e-5)
    other = model(tree)
    other.recipes = {"targeted": Targeted(recipe="targeted", start="gaussians", attack=Attack(eps=1.0, steps=1))}
    streams = Streams(4, "compose", "3 and b2", "sgld", ids=ids)
    start = own.gaussians.sample(torch.full((5,), 3), streams)
    both = chain(lambda x: -own.net(x)[:, 3] - own.net(x).log_softmax(1)[:, 2], start, streams).clamp(0, 1)
    assert torch.allclose(own.compose("3 and b2", 5, "sgld", seed=4, others={"b": other}), both, atol=1e-5)
    assert torch.allclose(
        own.compose("3 and not b3", 5, "sgld", seed=4, weight=0.0, others={"b": own}).mean(), expected.mean(), atol=0.1
    )


@pytest.mark.parametrize("statistics", ["running", "batch"])
def test_a_composition_uses_the_statistics_of_which_the_chains_were_trained(tree, statistics):
    own, other = model(tree), model(tree)
    modes = []
    for one in (own, other):
        one.about = {**one.about, "statistics": statistics}
        one.net.register_forward_pre_hook(lambda net, *_: modes.append(net.training))
    own.compose("3 and b2", 5, "sgld", others={"b": other})
    assert set(modes) == {statistics == "batch"} and not own.net.training and not other.net.training


TARGETED = {"recipe": "targeted", "start": "gaussians", "attack": {"eps": 1.0, "steps": 1}}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x: m.inpaint(x, np.ones((8, 9), bool)), "known must be bool [8, 8] or [2, 8, 8], True where"),
        (lambda m, x: m.inpaint(x, np.ones((8, 8))), "not torch.float64 [8, 8]"),
        (lambda m, x: m.paint(x, np.ones((9, 8), bool), 3), "region must be bool [8, 8] or [2, 8, 8], True where"),
        (lambda m, x: m.paint(x, np.ones((8, 8), bool), 10), "classes must be 0 to 9, not 10 to 10"),
        (lambda m, x: m.denoise(x, 0.0), "std must be positive and weight at least 0, not 0.0 and 0.01"),
        (lambda m, x: m.restore(x), "must be smaller than the model's [1, 8, 8] by an integer: [1, 4, 4] or [1, 2, 2]"),
        (lambda m, x: m.interpolate(x, x[:1]), "there must be as many images of both"),
        (lambda m, x: m.translate(x, steps=-1), "steps must be at least 0, not -1"),
        (lambda m, x: m.translate(x, frames=0), "frames must be at least 1, not 0"),
        (lambda m, x: m.translate(x, recipe=TARGETED, steps=0), "steps must be at least 1, not 0"),
        (lambda m, x: m.restore(np.full((2, 4, 4), 200.0)), "images of floats must be in [0, 1], not in [200, 200]"),
        (lambda m, x: m.compose("3", 0), "n must be at least 1 and weight at least 0, not 0 and 0.1"),
        (lambda m, x: m.compose("3", 2, weight=-1.0), "n must be at least 1 and weight at least 0, not 2 and -1.0"),
        (lambda m, x: m.compose("3", 2, steps=-1), "steps must be at least 0, not -1"),
        (lambda m, x: m.translate(x, recipe="no"), "no recipe no; there are"),
        (lambda m, x: m.compose("3 & 8", 2), "'3 & 8': must consist of classes, and, or, not"),
        (lambda m, x: m.compose("3 and 10", 2), "'10' is no class;"),
        (lambda m, x: m.compose("3 and b1", 2), "'b1' is no class; there are 0 to 9"),
    ],
)
def test_wrong_applications_are_told_in_a_line(tree, test_images, call, message):
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        call(model(tree), test_images.x[:2])
    assert "\n" not in str(raised.value)


def test_every_form_of_the_same_images(tree, test_images):
    own, x = model(tree), test_images.x[:6]
    expected, tensor = own.score(x), test_images.pixels()[:6]
    forms = [
        x[..., 0], x.transpose(0, 3, 1, 2), x / 255, (x / 255).astype(">f4"), tensor, tensor[:, 0], tensor.double(),
        torch.from_numpy(x), list(x), [tensor[0], *x[1:]], tensor.requires_grad_(), x[::-1][::-1],
        [Image.fromarray(one[..., 0]) for one in x], [Image.fromarray(one[..., 0]).convert("LA") for one in x],
    ]  # fmt: skip
    for form in forms:
        assert torch.allclose(own.score(form), expected, atol=1e-5)
    for one in (x[0], x[0, ..., 0], tensor[0], tensor[0, 0], Image.fromarray(x[0, ..., 0])):
        assert own.score(one).shape == (1,) and own.score(one) == pytest.approx(expected[0].item(), abs=1e-5)
    gray = pixels(x, (1, 8, 8))
    for form in (x, x[:, None, ..., 0], [Image.fromarray(one[..., 0]) for one in x]):
        assert torch.equal(pixels(form, (3, 8, 8)), gray.expand(-1, 3, -1, -1))


SHAPE = "must be [1, 8, 8] (channels, height, width), also with the channels last, one or several, not "
WRONG = [
    (np.zeros((2, 9, 9)), SHAPE + "[2, 9, 9]"),
    (np.zeros((2, 3, 8, 8)), SHAPE + "[2, 3, 8, 8]"),
    (torch.zeros(64), SHAPE + "[64]"),
    (torch.zeros(1, 1, 1, 8, 8), SHAPE + "[1, 1, 1, 8, 8]"),
    (Image.new("RGB", (8, 8)), SHAPE + "[8, 8, 3]"),
    (np.full((8, 8), 255.0), "must be in [0, 1], not in [255, 255]; only uint8 may be 0 to 255"),
    (torch.full((8, 8), -1.0), "not in [-1, -1]"),
    (torch.full((8, 8), torch.nan), "not in [nan, nan]"),
    (torch.zeros(8, 8, dtype=torch.int64), "must be uint8 from 0 to 255, or floats in [0, 1], not torch.int64"),
    (np.zeros((8, 8), bool), "not torch.bool"),
    (np.array([["a"]]), "or a list of them, not an array of <U1"),
    ("picture.png", "must be torch tensors, numpy arrays or PIL images, or a list of them, not str"),
    (Image.new("F", (8, 8)), "has floating-point pixels"),
    ([], "there are no images"),
    (np.zeros((0, 8, 8)), "there are no images"),
]


@pytest.mark.parametrize(("x", "message"), WRONG)
def test_wrong_images_are_told_in_a_line(x, message):
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        pixels(x, (1, 8, 8))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (10, "must be 0 to 9, not 10 to 10"),
        ([-1, 0], "must be 0 to 9, not -1 to 0"),
        ([1, 2, 3], "3 classes for 2 images"),
        (0.5, "must be integers"),
        ("three", "must be integers"),
        ([[1, 2]], "one or one for each image, not torch.int64 [1, 2]"),
        ([], "must be integers"),
    ],
)
def test_wrong_classes_are_told_in_a_line(y, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        labels(y, 10, 2)


def test_what_a_model_lacks_is_told_in_a_line(tree, test_images, tmp_path):
    x, y = test_images.x[:2], test_images.y[:2]
    for method in ("at_ebm", "glow"):
        own = model(tree, method)
        for call in (lambda: own.classify(x), lambda: own.energy(x, y), lambda: own.attack(x, y, eps=0.1)):  # noqa: B023
            with pytest.raises(ValueError, match=f"needs classes, but a model of {method} has E"):
                call()
    own, binary, flow = model(tree), model(tree, "at_ebm"), model(tree, "glow")
    combined = dict(own.about["recipes"])["combined"]
    assert binary.translate(x).shape == (2, 1, 8, 8)
    with pytest.raises(ValueError, match="the recipe draw has no chain to apply"):
        flow.translate(x)
    with pytest.raises(ValueError, match="paint needs classes, but a model of at_ebm"):
        binary.paint(np.zeros((8, 8)), np.ones((8, 8), bool), 0)
    with pytest.raises(ValueError, match="compose needs classes, but a model of at_ebm"):
        binary.compose("3", 2)
    assert binary.sample(3, start=x).shape == flow.sample(3).shape == (3, 1, 8, 8)
    for call, message in (
        (lambda: binary.sample(3), "starts from out-distribution images: give some as start"),
        (lambda: binary.sample(3, y=1, start=x), "makes images of no chosen class: leave out y"),
        (lambda: binary.sample(3, recipe=combined), "recipe: needs the logits of 10 classes, but the network has 1"),
        (lambda: flow.sample(3, start=x), "the recipe draw starts from no images: leave out start"),
        (lambda: own.sample(0), "n must be at least 1, not 0"),
        (lambda: own.sample(3, recipe="combind"), "no recipe combind; there are combined, sgld, again"),
        (lambda: own.sample(3, recipe={"recipe": "draw"}), "the recipe draw needs a flow"),
        (lambda: own.sample(3, recipe={"recipe": "dream"}), "recipe: Input tag 'dream'"),
        (lambda: own.sample(3, recipe=combined | {"contrast": 2}), "recipe.combined.contrast: Input should be less"),
        (
            lambda: own.sample(3, recipe=dict(own.about["recipes"])["again"] | {"temperature": 0.5}),
            "recipe.sgld: temperature: needs start gaussians or pca, whose deviations it scales, not uniform",
        ),
        (lambda: own.attack(x, y, eps=-1), "attack.eps: Input should be greater than or equal to 0"),
        (lambda: own.attack(x, y, eps=1, norm="l3"), "attack.norm: Input should be 'linf' or 'l2'"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)) as raised:
            call()
        assert "\n" not in str(raised.value)


def test_models_of_other_places_and_versions(tree, tmp_path):
    file = tree / "models/digits/robust_jem/model.safetensors"
    alone = tmp_path / "a/b/model.safetensors"
    alone.parent.mkdir(parents=True)
    alone.write_bytes(file.read_bytes())
    with pytest.raises(FileNotFoundError, match=r"gaussians.safetensors: no such file of class Gaussians; put it there"):
        advebm.load(alone).sample(2)
    found = advebm.load(alone, gaussians=tree / "models/digits/gaussians.safetensors", device="cpu").sample(2)
    assert torch.equal(found, advebm.load(str(file)).sample(2))
    networks.save(alone, WideResNet(depth=10, width=1).build((1, 8, 8), 10), method="at")
    with pytest.raises(ValueError, match=r"lacks classes, .*: an earlier version of advebm wrote it; train it again"):
        advebm.load(alone)
    with pytest.raises(FileNotFoundError, match="no such model file"):
        advebm.load(tmp_path)
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        advebm.lod  # noqa: B018
    assert json.loads(json.dumps(dict(model(tree).about)))["study"] == "tiny"


def shown(line, capsys, **places):
    """What a command prints on standard output."""
    sys.argv = ["advebm", *line.format(**places).split()]
    cli.main()
    return capsys.readouterr().out


SCORE = "score {t}/data/digits/test.npz --model {t}/models/digits/robust_jem"
JUDGE = " --judge {t}/models/digits/robust_jem/model.safetensors -q"
FID = "fid {t}/data/digits/test.npz {t}/data/digits/validation.npz" + JUDGE


@pytest.fixture
def pictures(tree, test_images, tmp_path):
    """The test images as a folder: 50 in each of two sub-folders, one of them in the mode RGB, though gray."""
    for i, x in enumerate(test_images.x):
        file = tmp_path / f"pictures/{i // 50}, a/{i:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(x[..., 0]).save(file)
    return tmp_path / "pictures"


@pytest.mark.parametrize("method", ["robust_jem", "at_ebm", "glow"])
def test_score_writes_what_the_api_returns(tree, test_images, capsys, tmp_path, method):
    line = SCORE.replace("robust_jem", method)
    assert "of 100 images are in-distribution" in shown(f"{line} --out {tmp_path}/new/a.jsonl", capsys, t=tree)
    rows = [json.loads(line) for line in (tmp_path / "new/a.jsonl").read_text().splitlines()]
    own, x = model(tree, method), test_images.x
    y, p = own.classify(x) if method == "robust_jem" else (torch.full((100,), -1), torch.zeros(100, 2))
    assert [row["class"] for row in rows] == [None if k < 0 else k for k in y.tolist()]
    assert method != "robust_jem" or [row["confidence"] for row in rows] == pytest.approx(p.amax(1).tolist(), abs=1e-5)
    assert [row["energy"] for row in rows] == pytest.approx(own.energy(x).tolist(), rel=1e-4, abs=1e-4)
    assert [row["score"] for row in rows] == pytest.approx(own.score(x).tolist(), rel=1e-4, abs=1e-4)
    assert [row["distribution"] == "in" for row in rows] == (own.score(x) >= own.threshold).tolist()
    with Image.open(tmp_path / "new/a.png") as picture:
        assert picture.width > 500
    printed = list(csv.DictReader(shown(f"{line} -q", capsys, t=tree).splitlines()))
    assert [{key: "" if value is None else str(value) for key, value in row.items()} for row in rows] == printed


def test_score_of_a_folder(tree, pictures, capsys):
    whole = list(csv.DictReader(shown(f"{SCORE} -q", capsys, t=tree).splitlines()))
    line = SCORE.replace("{t}/data/digits/test.npz", "{p}") + " -q"
    rows = list(csv.DictReader(shown(line, capsys, t=tree, p=pictures).splitlines()))
    assert [row.pop("image") for row in rows] == [f"{i // 50}, a/{i:03d}.png" for i in range(100)]
    assert rows == [{key: value for key, value in row.items() if key != "image"} for row in whole]


def test_score_by_a_model_of_two_classes_and_colour_images(tree, pictures, capsys, tmp_path):
    """Gray images have three equal channels then; a folder that mixes gray and colour has them too."""
    torch.manual_seed(0)
    about = model(tree).about | {"classes": 2, "threshold": 0.5, "method": "standard"}
    net, kept = WideResNet(depth=10, width=1).build((3, 8, 8), 2), {"network", "shape", "outputs"}
    networks.save(tmp_path / "m.safetensors", net, **{key: value for key, value in about.items() if key not in kept})
    Image.new("RGB", (8, 8), "red").save(pictures / "0, a/red.png")
    for place in (tree / "data/digits/test.npz", pictures):
        out = shown(f"score {place} --model {tmp_path}/m.safetensors -q", capsys)
        rows = {row.pop("image"): row for row in csv.DictReader(out.splitlines())}
        assert {row["class"] for row in rows.values()} <= {"0", "1"}
        assert all(0.5 <= float(row["confidence"]) <= 1 for row in rows.values())
    assert len(rows) == 101
    assert rows["0, a/007.png"] == next(csv.DictReader(_only(tmp_path, pictures / "0, a/007.png", capsys)), None)


def _only(tmp_path, file, capsys):
    """The lines of `score` for a folder with this image alone, without its name."""
    (alone := tmp_path / "alone").mkdir()
    (alone / "a.png").write_bytes(file.read_bytes())
    out = shown(f"score {alone} --model {tmp_path}/m.safetensors -q", capsys)
    return [line.partition(",")[2] for line in out.splitlines()]


APPLY = " --model {t}/models/digits/robust_jem --out {o}"


def test_apply_writes_images_as_they_came(tree, pictures, test_images, capsys, tmp_path):
    own, data = model(tree), tree / "data/digits"
    Image.fromarray(np.triu(np.full((8, 8), 255, np.uint8))).save(tmp_path / "mask.png")
    mask = torch.ones(8, 8).triu().bool()
    line = f"apply inpaint {{p}} --mask {tmp_path}/mask.png --steps 2 --frames 2 --seed 5" + APPLY
    shown(line, capsys, t=tree, o=tmp_path / "a", p=pictures)
    expected = images.to_bytes(own.inpaint(test_images.x, mask, steps=2, seed=5))
    for i in (0, 99):
        with Image.open(tmp_path / f"a/{i // 50}, a/{i:03d}.png") as picture:
            assert np.array_equal(np.asarray(picture), expected[i, ..., 0])
    with Image.open(tmp_path / "a/steps.gif") as moving:
        assert moving.n_frames == 3
    shown(
        f"apply paint {data}/test.npz --class 3 --region {tmp_path}/mask.png --steps 2" + APPLY,
        capsys,
        t=tree,
        o=tmp_path / "e",
    )
    painted = images.to_bytes(own.paint(test_images.x, mask, 3, steps=2))
    assert np.array_equal(images.load(tmp_path / "e/images.npz").x, painted)
    shown(f"apply denoise {data}/test.npz --std 0.1 --steps 2" + APPLY, capsys, t=tree, o=tmp_path / "b")
    assert np.array_equal(
        images.load(tmp_path / "b/images.npz").x, images.to_bytes(own.denoise(test_images.x, 0.1, steps=2))
    )
    shown(
        f"apply interpolate {data}/test.npz {data}/validation.npz --columns 3 --steps 1" + APPLY,
        capsys,
        t=tree,
        o=tmp_path / "c",
    )
    assert images.load(tmp_path / "c/images.npz").x.shape == (300, 8, 8, 1)
    judge = (
        " --judge {t}/models/digits/robust_jem --with b={t}/models/digits/robust_jem --judge b={t}/models/digits/robust_jem"
    )
    out = shown("apply compose 3 --n 10" + APPLY + judge, capsys, t=tree, o=tmp_path / "d")
    assert "3 holds for " in out and "of 10 images as the judges see them" in out
    held = shown("apply compose 3 --n 10 --holds not(b3)and(3)" + APPLY + judge, capsys, t=tree, o=tmp_path / "f")
    assert "not(b3)and(3) holds for 0.000 [0.000, 0.278] of 10 images" in held  # Wilson's interval of 0 of 10


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("apply inpaint {t}/data/digits/test.npz --mask {t}/none.png", "none.png"),
        ("apply paint {t}/data/digits/test.npz", "Missing option '--class'"),
        ("apply restore {t}/data/digits/test.npz", "must be smaller than the model's [1, 8, 8]"),
        ("apply translate {t}/none", "no such folder of images"),
        ("apply compose 3 --judge b={t}/models/digits/robust_jem", "--judge: lacks one for ''"),
        ("apply compose 3 --holds b3", "--judge: lacks one for 'b'"),
        ("apply compose 3 --holds 10 --judge {t}/models/digits/robust_jem", "'10' is no class; its judge has 0 to 9"),
        ("apply compose 3 --with {t}/models/digits/robust_jem", "must be NAME=MODEL"),
        ("apply dream", "No such command"),
    ],
)
def test_wrong_applies_are_told_in_a_line(tree, tmp_path, monkeypatch, capsys, line, message):
    more = APPLY if line != "apply dream" else ""
    assert message in error_of(line + more, monkeypatch, capsys, t=tree, o=tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_fid_is_that_of_the_features(tree, pictures, test_images, capsys, tmp_path):
    line = FID + f" --keep {tmp_path}/b.npz --out {tmp_path}/fid.json"
    assert "| FID " in shown(line, capsys, t=tree)
    found = json.loads((tmp_path / "fid.json").read_text())
    net, _ = networks.load(tree / "models/digits/robust_jem/model.safetensors")
    a = net.features(test_images.pixels()).double().numpy()
    b = net.features(images.load(tree / "data/digits/validation.npz").pixels()).double().numpy()
    cross = np.linalg.eigvals(np.cov(a.T) @ np.cov(b.T)).real.clip(0)
    gap = np.square(a.mean(0) - b.mean(0)).sum() + np.cov(a.T).trace() + np.cov(b.T).trace()
    assert found["fid"] == pytest.approx(gap - 2 * np.sqrt(cross).sum(), rel=1e-3, abs=1e-6)
    k = [(x @ y.T / a.shape[1] + 1) ** 3 for x, y in ((a, a), (b, b), (a, b))]
    within = sum((m.sum() - m.trace()) / (100 * 99) for m in k[:2])
    assert found["kid"] == pytest.approx(within - 2 * k[2].mean(), rel=1e-2, abs=1e-5)
    assert found["n"] == found["reference_n"] == 100 and 0 <= found["precision"] <= 1
    np.savez(tmp_path / "other.npz", mu=b.mean(0), sigma=np.cov(b.T))
    for change in (("{t}/data/digits/validation.npz", f"{tmp_path}/b.npz"), ("{t}/data/digits/test.npz", str(pictures))):
        shown(FID.replace(*change) + f" --out {tmp_path}/again.json", capsys, t=tree)
        again = json.loads((tmp_path / "again.json").read_text())
        assert again == pytest.approx(found, rel=1e-3, abs=1e-5), change
    other = FID.replace("{t}/data/digits/validation.npz", f"{tmp_path}/other.npz") + f" --out {tmp_path}/o.json"
    shown(other, capsys, t=tree)
    known = json.loads((tmp_path / "o.json").read_text())
    assert known["fid"] == pytest.approx(found["fid"], rel=1e-3, abs=1e-6)
    assert known["kid"] is known["recall"] is known["reference_n"] is None and known["n"] == 100


TABLE = [  # a command line, the message
    (SCORE.replace("{t}/data/digits/test.npz", "{b}/small.npz"), "small.npz: images must be [1, 8, 8] (channels, height"),
    (SCORE.replace("{t}/data/digits/test.npz", "{b}/colour.npz"), "colour.npz: images must be [1, 8, 8] (channels, height"),
    (SCORE.replace("{t}/data/digits/test.npz", "{b}/none"), "none: no such folder of images, or .npz file with x uint8"),
    (SCORE.replace("{t}/data/digits/test.npz", "{b}/empty"), "empty: holds no images (.bmp"),
    (SCORE.replace("{t}/data/digits/test.npz", "{b}/mixed"), "b.png: is 9x9, others 8x8; sizes must agree"),
    (SCORE.replace("{t}/data/digits/test.npz", "{b}/page.npz"), "page.npz: is not a readable .npz file"),
    (SCORE.replace("robust_jem", "none"), "none: no such model file"),
    (SCORE.replace("models/digits/robust_jem", "data/digits/test.npz"), "test.npz: is not a readable advebm model"),
    (SCORE + " --out {b}/a.txt", "a.txt: must end with .csv or .jsonl"),
    (FID.replace("--judge", "--inception --judge"), "give either --judge MODEL or --inception"),
    (FID.removesuffix(JUDGE), "give either --judge MODEL or --inception"),
    (FID.replace("robust_jem", "glow"), "is a flow, which has no features; take a classifier"),
    (FID.replace("{t}/data/digits/test.npz", "{b}/small.npz"), "small.npz: holds images [1, 9, 9], but"),
    (FID.replace("{t}/data/digits/test.npz", "{b}/colour.npz"), "colour.npz: holds images [3, 8, 8], but"),
    (FID.replace("{t}/data/digits/test.npz", "{b}/few.npz"), "few.npz: 9 images, but their quality needs at least 10"),
    (FID.replace("{t}/data/digits/test.npz", "{b}/page.npz"), "page.npz: is not a readable .npz file"),
    (FID.replace("{t}/data/digits/validation.npz", "{b}/short.npz"), "features have 64 and 5 dimensions"),
    (FID.replace("{t}/data/digits/validation.npz", "{b}/short.npz") + " --keep {b}/k.npz", "only mu and sigma"),
    (FID.replace("{t}/data/digits/validation.npz", "{b}/wrong.npz"), "wrong.npz: mu, sigma and features must be finite"),
    (FID.replace("{t}/data/digits/validation.npz", "{b}/nan.npz"), "nan.npz: mu, sigma and features must be finite"),
    (FID.replace("{t}/data/digits/validation.npz", "{b}/others.npz"), "others.npz: its features are of inception, not of"),
]


@pytest.mark.parametrize(("line", "message"), TABLE)
def test_mistakes_are_told_in_a_line(tree, tmp_path, monkeypatch, capsys, line, message):
    rng, b = np.random.default_rng(0), tmp_path
    for name, shape in {"small": (20, 9, 9), "colour": (20, 8, 8, 3), "few": (9, 8, 8)}.items():
        np.savez(b / f"{name}.npz", x=rng.integers(0, 256, shape, dtype=np.uint8))
    for name in ("empty", "mixed"):
        (b / name).mkdir()
    for side, name in ((8, "a"), (9, "b")):
        Image.new("L", (side, side)).save(b / f"mixed/{name}.png")
    (b / "page.npz").write_text("<html>")
    np.savez(b / "short.npz", mu=np.zeros(5), sigma=np.eye(5))
    np.savez(b / "wrong.npz", mu=np.zeros(5), sigma=np.eye(4))
    np.savez(b / "nan.npz", mu=np.full(5, np.nan), sigma=np.eye(5))
    np.savez(b / "others.npz", mu=np.zeros(5), sigma=np.eye(5), network=np.array("inception"))
    assert message in error_of(line, monkeypatch, capsys, t=tree, b=b)
