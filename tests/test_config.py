"""params.yaml: the effective params of each study, and the short forms it allows."""

import copy
import json
from pathlib import Path

import pytest
import yaml

from advebm import config
from advebm.commands.info import written
from advebm.evaluation.generation import start_images
from advebm.methods import METHODS
from advebm.runtime.project import digest

FILE = Path("params.yaml")
PARAMS = yaml.safe_load(FILE.read_text())
STUDIES = config.studies(PARAMS)
ONE_CLASS = ("faces64", "cats64", "faces-smoke")  # where classifiers have nothing to learn
GOLDEN = Path(__file__).with_name("effective.json")
TABLES = {"data": "out", "robustness": "attacks", "ood": "radii", "autoattack": "eps"}  # their order is that of the tables


def parts(entry):
    """The effective params of a study as {"data": ..., "models/jem": ..., "sampling/jem": ...}."""
    split = {f"{key}/{name}": part for key in ("models", "sampling") for name, part in entry[key].items()}
    return {key: part for key, part in entry.items() if key not in ("models", "sampling", "network", "training")} | split


def digests(study):
    """{part: sha256} of the effective params; the order of recipes, sets, attacks and norms matters."""

    def listed(name, part):
        if name.startswith("sampling/"):
            return list(part.items())
        return part | {TABLES[name]: list(part[TABLES[name]].items())} if name in TABLES and part else part

    return {name: digest(listed(name, part)) for name, part in parts(config.read(FILE, study)).items()}


def test_schema_is_what_the_dataclasses_say():
    assert json.loads(config.SCHEMA.read_text()) == config.schema(), "run `python -m advebm.config`"


def test_the_numbers_are_those_that_were_written_down():
    """After an intended change of a number, run `python tests/test_config.py`: it writes tests/effective.json, whose diff
    shows the studies and parts that have changed."""
    golden = json.loads(GOLDEN.read_text())
    assert list(golden) == STUDIES
    for study, parts in golden.items():
        now = digests(study)
        assert {name: now.get(name) for name in parts} == parts, study


@pytest.mark.parametrize("study", STUDIES)
def test_every_study_is_right_and_has_every_method(study):
    """Those of `methods` first; `tiny` has the others too, for the tests."""
    entry, first = config.read(FILE, study), ["at_ebm"] if study in ONE_CLASS else PARAMS["methods"]
    assert list(METHODS)[: len(PARAMS["methods"])] == PARAMS["methods"] and first == list(entry["models"])[: len(first)]
    assert list(entry["sampling"]) == list(entry["models"])
    assert study != "tiny" or set(entry["models"]) == set(METHODS)
    for name in [*entry["models"], "judge"]:
        built = config.model(entry, name)
        assert type(built.method) is METHODS["standard" if name == "judge" else name]
        assert built.network.kind in built.method.networks and built.training.epochs
    for name in entry["models"]:
        for recipe in config.recipes(entry, name).values():
            assert recipe.start in (None, *start_images(type("G", (), {"sample": None, "shape": ()})()))
            assert not recipe.guided or config.model(entry, name).method.outputs(10) == 10


def test_every_base_is_of_use():
    assert {f"bases.{name}" for name in PARAMS["bases"]} == {
        place for study in STUDIES for place in config.lineage(PARAMS, study) if place.startswith("bases.")
    }


def test_models_take_the_studys_network_and_training_but_for_what_they_change():
    entry = config.read(FILE, "cifar10")
    jem, jempp = config.model(entry, "jem"), config.model(entry, "jempp")
    assert (jem.network.norm, jempp.network.norm) == ("none", "batch") and jem.network.width == jempp.network.width == 10
    assert (jem.training.optimizer.name, jempp.training.optimizer.name) == ("adam", "sgd")
    assert jem.training.augmentation == jempp.training.augmentation


def test_papers_numbers_are_converted():
    entry = config.read(FILE, "cifar10")
    jem, jempp, robust = (config.model(entry, name) for name in ("jem", "jempp", "robust_jem"))
    assert jem.method.sampler.step_size == 1 / 4 and jem.method.sampler.noise == 0.01 / 2
    assert jempp.method.sampler.step_size == 0.2 / 4 and jempp.method.sampler.clamp_grad == 1 * 2
    assert robust.method.attack.eps == 0.1 / 2 and robust.method.attack.steps == 15
    released = config.recipes(entry, "jempp")["sgld"].chain  # five inner steps and an outer one, each of size 1
    assert released.step_size == 6 / 4 and released.clamp_grad == 1 * 2 and released.noise == 0.01 / 2
    assert jem.training.augmentation.noise == 0.03 / 2 and entry["gaussians"]["ridge"] == 1e-4 / 4
    assert entry["robustness"]["attacks"]["pgd20"]["eps"] == 8 / 255


def test_flat():
    assert config.flat({"a": {"b": 1, "c": {"d": 2}}, "e": [1]}) == {"a.b": 1, "a.c.d": 2, "e": [1]}


@pytest.mark.parametrize(
    ("general", "own", "both"),
    [
        ({"a": {"b": 1, "c": 2}}, {"a": {"c": 3, "d": 4}}, {"a": {"b": 1, "c": 3, "d": 4}}),
        ({"a": {"b": 1}, "c": [1, 2]}, {"a": None, "c": [3]}, {"a": None, "c": [3]}),
        ({"a": 1}, {"a": {"b": 2}}, {"a": {"b": 2}}),
        ({"kind": "wrn", "depth": 10}, {"depth": 28}, {"kind": "wrn", "depth": 28}),
        ({"kind": "wrn", "depth": 10}, {"kind": "glow"}, {"kind": "glow"}),
        ({"kind": "step", "warmup": 5}, {"kind": "step", "factor": 0.1}, {"kind": "step", "factor": 0.1}),
        ({"augmentation": {"pad": 4, "noise": 0.1}}, {"augmentation": {"pad": 2}}, {"augmentation": {"pad": 2}}),
        ({"augmentation": {"pad": 4}}, {}, {"augmentation": {"pad": 4}}),
    ],
)
def test_what_is_said_is_merged_into_what_is_inherited(general, own, both):
    before = copy.deepcopy((general, own))
    made = config.merged(general, own)
    assert made == both == config.merged(general, made) and (general, own) == before


def of(changes, **more):
    """The effective params of a study `mine` that is like tiny with these changes."""
    return config.effective(PARAMS | more | {"mine": {"like": "tiny"} | changes}, "mine")


def test_a_study_is_what_it_is_like_but_for_what_it_says():
    tiny = config.read(FILE, "tiny")
    assert of({}) == tiny
    changed = of({"models": {"at": {"attack": {"eps": 0.2}}}, "training": {"optimizer": {"lr": 0.5}}})
    assert changed["models"]["at"]["attack"] == {"eps": 0.2, "steps": 2}
    assert all(model["training"]["optimizer"]["lr"] == 0.5 for model in changed["models"].values())
    assert changed["data"] == tiny["data"] and changed["models"]["jem"]["sampler"] == tiny["models"]["jem"]["sampler"]


def test_null_leaves_out_what_is_inherited():
    changed = of(
        {
            "models": {"jem": None, "jeat": None},
            "sampling": {"at": {"targeted": None}, "noise": None},
            "data": {"out": {"uniform": None}},
            "robustness": {"attacks": {"target20": None}},
            "ood": {"radii": {"linf": None}},
            "warm": None,
            "autoattack": None,
            "fisher": None,
        }
    )
    assert set(METHODS) - set(changed["models"]) == {"jem", "jeat"} and list(changed["sampling"]) == list(changed["models"])
    assert changed["sampling"]["at"] == changed["sampling"]["noise"] == {}
    assert list(changed["data"]["out"]) == ["photographs"] and list(changed["ood"]["radii"]) == ["l2"]
    assert list(changed["robustness"]["attacks"]) == ["pgd20", "energy20"]
    assert changed["warm"] is changed["autoattack"] is changed["fisher"] is None and changed["calibration"] == {}
    assert parts(changed)["autoattack"] is None


def test_a_study_says_nothing_of_methods_whose_defaults_serve():
    tiny = config.read(FILE, "tiny")
    stated = {name: model for name, model in tiny["models"].items() if name in ("at", "noise")}
    content = {"methods": PARAMS["methods"], "mine": tiny | {"models": stated, "sampling": {}}}
    models = config.effective(content, "mine")["models"]
    assert list(models) == ["standard", "at", "noise", "oe"], "flows need other networks, the rest lack numbers"
    assert models["oe"] == {"network": tiny["network"], "training": tiny["training"]}
    content["mine"]["models"] = stated | {"oe": None}
    assert list(config.effective(content, "mine")["models"]) == ["standard", "at", "noise"]


@pytest.mark.parametrize("study", STUDIES)
def test_effective_params_are_their_own(study, tmp_path):
    entry = config.read(FILE, study)
    (tmp_path / "params.yaml").write_text(written(study, entry))
    again = config.read(tmp_path / "params.yaml", study)
    assert again == entry and json.dumps(parts(again)) == json.dumps(parts(entry))
    assert "recipes" not in entry and "&" not in written(study, entry)


# the entry of a study `mine` that is like tiny, other keys of the file, the error message
MISTAKES = [
    ({"like": "tinny"}, {}, "mine.like: no study or base 'tinny' (did you mean tiny?); there are all, small, "),
    ({"like": ["tiny"]}, {}, "mine.like: no study or base"),
    ({"like": "mine"}, {}, "mine.like: must not be circular: mine -> mine"),
    (
        {"like": "a"},
        {"bases": {"a": {"like": "b"}, "b": {"like": "a"}}},
        "bases.b.like: must not be circular: mine ->",
    ),
    ({"models": {"at": {"attack": {"epss": 1}}}}, {}, "mine.models.at.attack: unknown key 'epss' (did you mean eps?)"),
    ({"recipes": 3}, {}, "mine.recipes: must map names to recipes, not 3"),
    ({"recipes": {"sgld": {"chain": {"noise": -1.0}}}}, {}, "mine.recipes.sgld.chain.noise: -1.0 is less than the minimum"),
    (
        {"sampling": {"at": {"sgdl": {}}}},
        {},
        "mine.sampling.at.sgdl: lacks recipe, and is not in recipes (did you mean sgld?)",
    ),
    ({"training": {"optimizer": {"lr": "fast"}}}, {}, "mine.training.optimizer.lr: 'fast' is not of type 'number'"),
    ({"models": {"oe": {"network": {"kind": "glow"}}}}, {}, "mine.models.oe.network.kind: 'glow' is not one of ['wrn', "),
    ({}, {"tiny": PARAMS["tiny"] | {"samples": 0}}, "tiny.samples: 0 is less than the minimum of 1"),
    (
        {},
        {"bases": PARAMS["bases"] | {"small": PARAMS["bases"]["small"] | {"modles": {}}}},
        "bases.small: unknown key 'modles' (did you",
    ),
    ({"quality": None}, {}, "mine.quality: None is not of type 'object'"),
]


@pytest.mark.parametrize(("says", "more", "message"), MISTAKES)
def test_a_mistake_is_named_by_where_it_stands(says, more, message):
    with pytest.raises(ValueError) as raised:
        of(says, **more)
    assert str(raised.value).startswith(message)


# the overrides that the docs pass to `dvc exp run -S`, and where each is in the effective params
OVERRIDES = [
    ("digits.models.robust_jem.attack.eps=0.15", "models.robust_jem.attack.eps", 0.15),
    ("digits.models.at_ebm.start=[gaussians]", "models.at_ebm.start", ["gaussians"]),
    ("digits.models.at_ebm.progressive=null", "models.at_ebm.progressive", None),
    ("digits.models.at_ebm.progressive={iterations:9,auc:0.8,window:10}", "models.at_ebm.progressive.iterations", 9),
    ("digits.models.at_ebm.ascent.steps=2", "models.at_ebm.ascent.steps", 2),
    ("digits.models.noise.std=0.0314", "models.noise.std", 0.0314),
    ("digits.sampling.at_ebm.ascent.ascent.steps=5", "sampling.at_ebm.ascent.ascent.steps", 5),
    ("++digits.quality.reference=validation", "quality.reference", "validation"),
    ("++digits.robustness.split=validation", "robustness.split", "validation"),
    ("++digits.models.at.attack.eps=0.3", "models.at.attack.eps", 0.3),
    ("++digits.recipes.sgld.chain.steps=7", "sampling.jem.sgld.chain.steps", 7),
    ("++digits.sampling.jem.sgld.chain.steps=7", "sampling.jem.sgld.chain.steps", 7),
    ("digits.training.epochs=3", "models.at.training.epochs", 3),
]


@pytest.mark.parametrize(("override", "path", "value"), OVERRIDES)
def test_what_dvc_changes_is_read(override, path, value, tmp_path):
    from dvc.utils.hydra import apply_overrides

    file = tmp_path / "params.yaml"
    file.write_text(FILE.read_text())
    apply_overrides(file, [override, "method=at", "study=digits"])
    apply_overrides(file, ["seed=3", "launch.processes=2"])  # it must be able to read its own output
    before, after = config.read(FILE, "digits"), config.read(file, "digits")
    place = after
    for key in path.split("."):
        place = place[key]
    assert place == value
    changed = {name for name, part in parts(after).items() if part != parts(before)[name]}
    assert changed and ("recipes" in override or "training" in override or len(changed) == 1)


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps({study: digests(study) for study in STUDIES}, indent=1) + "\n")
    print(f"wrote {GOLDEN}")
