"""Sample quality as a function of the number of steps."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from advebm import config, figures
from advebm.commands.steps import summary, variants
from advebm.data.gaussians import Gaussians
from advebm.data.images import Images
from advebm.energy import marginal
from advebm.evaluation import features, frechet, quality, steps
from advebm.evaluation.generation import Generator, start_images
from advebm.networks.passes import Passes
from advebm.runtime.parts import SEED
from advebm.samplers.pgd import Ascent, Attack
from advebm.samplers.recipes import SGLD, Ascend, CELangevin, Combined
from advebm.samplers.sgld import Langevin
from advebm.samplers.streams import Streams

CHAIN = Langevin(steps=5, step_size=0.5, noise=0.05, clamp_grad=1.0)
RECIPES = [
    SGLD(recipe="sgld", start="uniform", chain=CHAIN),
    SGLD(recipe="sgld", start="gaussians", conditional=True, chain=replace(CHAIN, clip=True)),
    CELangevin(recipe="ce_langevin", start="gaussians", chain=CHAIN),
    Combined(recipe="combined", attack=Attack(eps=0.2, steps=2), contrast=0.8, chain=CHAIN),
    Ascend(recipe="ascent", start="uniform", ascent=Ascent(steps=5, step_size=0.3, eps=1.0)),
]
LENGTHS = [1, 3, 11, 20]  # noise is drawn for 8 steps at a time


@pytest.fixture
def starts(images):
    gaussians = Gaussians.fit(images, ridge=1e-3)
    return {"gaussians": gaussians.sample, "uniform": lambda y, streams: streams.uniform(1, 4, 4)}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.recipe)
def test_an_image_after_so_many_steps_is_that_of_a_chain_of_so_many(recipe, wrn, starts):
    net, y, ids = wrn.eval(), torch.tensor([0, 1, 2, 0, 1]), torch.arange(5)
    found = steps.snapshots(recipe, net, y, starts, Streams(0, "sample", ids=ids), LENGTHS)
    assert list(found) == [0, *LENGTHS]
    name = steps.last_chain(recipe)
    for length in LENGTHS:
        whole = replace(recipe, **{name: replace(getattr(recipe, name), steps=length)})
        stages = list(whole(net, y, starts, Streams(0, "sample", ids=ids)).values())
        assert torch.equal(found[length], stages[-1]) and torch.equal(found[0], stages[-2])
    assert not torch.equal(found[11], found[20])


@pytest.mark.parametrize("start", ["gaussians", "pca"])
def test_a_tempered_start_is_that_of_narrower_gaussians(start, images, wrn):
    """And `contrast` is something else: it keeps an image's own mean, which the temperature does not."""
    fitted, y, ids = Gaussians.fit(images, ridge=1e-3), torch.arange(6) % 3, torch.arange(6)
    chain = replace(CHAIN, steps=2)
    recipes = [SGLD(recipe="sgld", start=start, chain=chain, temperature=0.5)]
    if start == "gaussians":
        recipes.append(CELangevin(recipe="ce_langevin", start=start, chain=chain, temperature=0.5))
        attack = Attack(eps=0.0, steps=1)
        recipes.append(Combined(recipe="combined", attack=attack, contrast=0.5, chain=chain, temperature=0.5))
    whole = fitted if start == "gaussians" else fitted.leading()
    narrow = Gaussians(whole.mean, 0.5 * whole.factor, whole.shape).sample(y, Streams(0, ids=ids))
    for recipe in recipes:
        first, *rest, _ = recipe(wrn.eval(), y, start_images(fitted), Streams(0, ids=ids)).values()
        assert torch.allclose(first, narrow, atol=1e-6)
        for lower in rest[1:]:
            assert torch.allclose(lower.mean((1, 2, 3)), first.mean((1, 2, 3)), atol=1e-6)
            assert not torch.allclose(lower, first, atol=0.01)
    mean, warm = whole.mean[y].view(narrow.shape), whole.sample(y, Streams(0, ids=ids))
    assert ((narrow - mean).abs() <= (warm - mean).abs() + 1e-6).all()


def test_the_images_are_those_that_sample_draws(wrn, starts):
    recipe, ids = RECIPES[1], torch.arange(7)
    make = Generator(net=wrn.eval(), starts=starts, classes=3)
    sets = steps.drawn({"mine": ("sgld", recipe)}, [2, 5], 7, make)
    x = list(recipe(wrn, ids % 3, starts, Streams(SEED, "sample", "sgld", ids=ids)).values())[-1]
    assert np.array_equal(sets["mine"][5].x, (x * 255).round().byte().permute(0, 2, 3, 1).numpy())
    assert list(sets["mine"]) == [0, 2, 5] and sets["mine"][5].y.tolist() == [0, 1, 2, 0, 1, 2, 0]
    with pytest.raises(ValueError, match="mine: images are not finite after 2 steps"):
        broken = replace(recipe, chain=replace(CHAIN, step_size=1e38, clamp_grad=None, noise=1e38))
        steps.drawn({"mine": ("sgld", broken)}, [2, 5], 7, make)


def test_numbers_of_images(wrn, tmp_path):
    rng = np.random.default_rng(0)
    made, real = (Images(rng.integers(0, high, (60, 8, 8, 1), dtype=np.uint8), np.arange(60) % 3) for high in (256, 200))
    wrn.eval()
    using = features.network(quality.Quality(features="judge"), wrn, 1, tmp_path)
    found = steps.scores(made, quality.Reference(real, using), using, "made")
    a, b = (wrn.features(images.pixels()).double().detach() for images in (made, real))
    assert found == (
        pytest.approx(frechet.frechet(a, b), rel=1e-4),
        pytest.approx(frechet.jackknife(a, frechet.fitted(b)), rel=1e-3),
    )
    found = steps.looks(wrn, wrn, made, Passes())
    logits = wrn(made.pixels())
    assert found.energy == pytest.approx(-logits.logsumexp(1).mean().item(), rel=1e-5)
    assert found.label_consistency == (logits.argmax(1).numpy() == made.y).mean()
    assert found.saturated == ((made.x == 0).sum() + (made.x == 255).sum()) / made.x.size > 0
    assert steps.looks(wrn, wrn, Images(made.x), Passes()).label_consistency is None
    assert steps.mean_energy(wrn, made, Passes(), batch=7) == pytest.approx(
        marginal(wrn)(made.pixels()).mean().item(), rel=1e-5
    )
    assert steps.best([3.0, 1.0, 2.0], [10, 20, 40]) == 20
    reached = [steps.reached([3.0, 1.0, 0.5], [10, 20, 40], target) for target in (3.0, 1.5, 1.0, 0.4, None)]
    assert reached == [10, 20, 20, None, None]


ENTRY = config.read(Path("params.yaml"), "tiny", "robust_jem")


def test_a_number_varies_beside_the_studys_own():
    vary = ["combined.attack.eps=0.1,0.5", "combined.contrast=0.2"]  # tiny has .5
    found = variants(ENTRY, "robust_jem", "tiny", [], vary, ["sgld.conditional=false"])
    assert list(found) == ["combined attack.eps=0.1", "combined attack.eps=0.5", "combined contrast=0.2", "sgld"]
    eps, contrast = (
        {curve: f(recipe) for curve, (name, recipe) in found.items() if name == "combined"}
        for f in (lambda recipe: recipe.attack.eps, lambda recipe: recipe.contrast)
    )
    assert list(eps.values()) == [0.1, 0.5, 0.5] and list(contrast.values()) == [0.9, 0.9, 0.2]
    assert found["sgld"][1].conditional is False and ENTRY["sampling"]["robust_jem"]["sgld"]["conditional"] is True
    assert list(variants(ENTRY, "robust_jem", "tiny", ["sgld"], [], [])) == ["sgld"]
    beside = variants(ENTRY, "robust_jem", "tiny", ["combined"], ["combined.attack.eps=0.1"], [])
    assert list(beside) == ["combined", "combined attack.eps=0.1"]


def test_numbers_vary_together():
    vary = ["sgld.chain.normalised=true sgld.chain.step_size=0.1,0.2", "sgld.temperature=0.5"]
    found = variants(ENTRY, "robust_jem", "tiny", ["sgld"], vary, [])
    plain, *both, cold = (recipe for _, recipe in found.values())
    names = [f"sgld chain.normalised=true chain.step_size={size}" for size in (0.1, 0.2)]
    assert list(found) == ["sgld", *names, "sgld temperature=0.5"]
    assert [recipe.chain for recipe in both] == [replace(plain.chain, normalised=True, step_size=s) for s in (0.1, 0.2)]
    assert cold == replace(plain, temperature=0.5)


@pytest.mark.parametrize(
    ("method", "names", "vary", "changes", "message"),
    [
        ("robust_jem", ["combind"], [], [], "no recipe 'combind'; there are combined, sgld"),
        ("robust_jem", [], ["combind.contrast=1"], [], "no recipe 'combind'"),
        ("robust_jem", [], ["combined.contrast"], [], "must be KEY=VALUE,VALUE"),
        ("robust_jem", [], ["combined=1"], [], "must be KEY=VALUE,VALUE"),
        ("robust_jem", [], ["combined.contrast=1,2"], [], "2 is greater than the maximum of 1"),
        ("robust_jem", [], [""], [], "must be KEY=VALUE,VALUE"),
        ("robust_jem", [], ["sgld.temperature=1 combined.contrast=1"], [], "or several of one recipe"),
        ("robust_jem", [], ["sgld.chain.noise=0.1 sgld.chain.steps=9"], [], "is the axis of all curves"),
        ("robust_jem", [], ["sgld.chain.normalised=true sgld.chain.precondition=0.9"], [], "normalised: must be"),
        ("robust_jem", [], ["sgld.start=uniform sgld.temperature=0.5"], [], "sgld.temperature: needs start gaussians"),
        ("robust_jem", [], [], ["combined.attack.epss=1"], "unknown key 'epss' .did you mean eps?"),
        ("robust_jem", [], [], ["sgld.steps"], "must be KEY=VALUE"),
        ("at", [], [], [], "none of its recipes has a chain of steps"),
        ("at", ["targeted"], [], [], "targeted has no chain of steps"),
        ("at", [], ["targeted.attack.eps=1"], [], "targeted has no chain of steps"),
        ("standard", [], [], [], "none of its recipes has a chain"),
    ],
)
def test_what_has_no_steps_is_told(method, names, vary, changes, message):
    with pytest.raises(ValueError, match=message):
        variants(ENTRY, method, "tiny", names, vary, changes)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.recipe)
def test_the_adjustment_at_the_end_of_a_chain(recipe, wrn, starts, images):
    make = Generator(net=wrn.eval(), starts=starts, classes=3)
    found = steps.adjustment(make, "mine", recipe, images[:9], 4)
    assert (found is None) is (recipe.recipe == "ascent")
    if found is None:
        return
    for change in ({"normalised": True}, {"precondition": 0.9}, {"noise_last": 0.01}, {"momentum": 0.9}, {"noise": 0.0}):
        assert steps.adjustment(make, "mine", replace(recipe, chain=replace(recipe.chain, **change)), images[:9], 4) is None
    x, y = images[:9].pixels(), torch.arange(9) % 3
    logits = wrn(x)
    own = logits.gather(1, y[:, None])[:, 0]
    values = {"sgld": -logits.logsumexp(1), "combined": -own, "ce_langevin": logits.logsumexp(1) - own}[recipe.recipe]
    expected = (-own if recipe.recipe == "sgld" and recipe.conditional else values).mean().item()
    assert found.before == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert 0 <= found.taken <= 1 and 0 < found.factor <= 1 and np.isfinite(found.after)


def test_the_table_of_steps():
    """Where FID is lowest and reached, and what the images are after the last step."""
    curve = steps.Curve(
        fid=[3.0, 1.0, 2.0],
        fid_se=[0.3, 0.1, 0.2],
        label_consistency=[None] * 3,
        energy=[0.1, -0.2, -0.4],
        saturated=[0.0, 0.1, 0.25],
        best=20,
        reached=10,
    )
    real = steps.Real(validation=steps.Looks(label_consistency=1.0, energy=0.0, saturated=0.1), train={})
    result = steps.StepsResult(images=60, lengths=[10, 20, 200], recipes={}, real=real, curves={"sgld": curve}, target=3.5)
    end = ["FID after 200", "E(x) after 200", "saturated after 200"]
    asked = ["recipe", "lowest FID", "steps", "steps to FID 3.5", "E(x) then", *end]
    assert summary(result) == (asked, [["sgld", "1 ± 0.1", 20, 10, -0.2, 2.0, -0.4, 0.25]])
    without = summary(replace(result, target=None))
    assert without == ([*asked[:3], *asked[4:]], [["sgld", "1 ± 0.1", 20, -0.2, 2.0, -0.4, 0.25]])


def test_pictures_of_steps(tmp_path):
    curve = {"fid": [3.0, 2.0], "fid_se": [0.2, 0.1], "label_consistency": [None, None], "energy": [1.0, 0.5]}
    looks = {"label_consistency": 0.9, "energy": 1.0, "saturated": 0.1}
    real = {"validation": looks, "train": {**looks, "fid": 1.5, "fid_se": 0.1}}
    for count in (1, 9):
        end = {"taken": 0.1, "factor": 0.25, "before": 0.6, "after": 0.5} if count == 1 else None
        more = {"saturated": [0.1, 0.1], "best": 20, "reached": None, "adjusted": end}
        curves = {f"sgld chain.step_size=0.{i}": curve | more for i in range(count)}
        content = {"images": 60, "lengths": [10, 20], "target": None, "recipes": {}, "real": real, "curves": curves}
        result = steps.StepsResult.read(content)
        assert result.json() == content
        with Image.open(figures.steps(result, tmp_path / "steps.png", "title")) as picture:
            assert picture.width > 800
