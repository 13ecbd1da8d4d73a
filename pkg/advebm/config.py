"""Read params.yaml into dataclasses, with strict validation.

The dataclasses (a study's parts, the methods, the recipes) define what a study may hold. `schema()` derives a JSON schema
from them, and params.schema.json stores it, so that mistakes are found without importing torch. `python -m advebm.config`
writes that file; a test checks that it is up to date.
"""

import difflib
import functools
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, MinLen

from advebm.evaluation import MEASUREMENTS
from advebm.ranges import LEAST, Count, Positive, Precision
from advebm.runtime.disk import not_finite, read_text
from advebm.runtime.project import digest

if TYPE_CHECKING:
    from advebm.methods import Method
    from advebm.networks import Spec
    from advebm.training import Training

SCHEMA = Path(__file__).with_name("params.schema.json")
OTHERS = ("judge", "warm")  # models of a study other than those of its methods
BESIDE = ("launch", "toy2d", "bases")  # top-level entries of params.yaml that are not studies
KINDS = {"kind", "name", "recipe"}  # a part with one of these keys inherits nothing from the part it replaces
WHOLE = ("augmentation",)  # parts without such a key that inherit nothing either
NAME = r"[A-Za-z0-9_-]+"  # of a study, an out-distribution set, an attack or a recipe: a key of results and a file name
RESERVED = (  # names of recipes, attacks and sets: keys and files of results, and the sets of images that the program has
    *("baselines", "clean", "curve", "eps", "gaussians", "none", "real", "replay_buffer"),
    *("train", "validation", "test", "outliers"),
)
TABLES = (  # tables by name, from which null removes an inherited entry
    *("recipes", "models", "sampling", "sampling.*", "data.out"),
    *("ood.radii", "ood.cheaper", "scores.cheaper", "scores.attacks", "robustness.attacks", "autoattack.eps"),
)


@dataclass(kw_only=True)
class Data:
    """The images of a study. data/sources.py lists the sources; those without splits are split, stratified by class."""

    source: str
    labels: Literal["class", "ink"] = "class"  # ink: light, medium or heavy, see data/attributes.py
    size: Count | None = None  # side to which images of folders are cropped and reduced; null: they have one size
    validation: Count  # training images held out for tuning
    test: Count | None = None  # images held out for reporting; null if the source has a test split
    outliers: str  # out-distribution images used in training
    out: Annotated[dict[str, str], MinLen(1)]  # out-distribution sets used in tests, by name
    out_size: Count = 1024  # images of each, or as many as the source has


@dataclass(kw_only=True)
class Model:
    """A method with its network and training."""

    method: "Method"
    network: "Spec"
    training: "Training"
    warm: bool = False  # whether training starts from the study's warm start


@dataclass(kw_only=True)
class Gaussian:
    ridge: Positive  # added to the covariance's diagonal, images in [0, 1]


@dataclass(kw_only=True)
class Promote:
    """What makes a model better than another, for `advebm promote`."""

    metric: str  # of a measurement, as MLflow names it; * is each recipe of the model's method, of which the best counts
    best: Literal["highest", "lowest"]


def read(params: Path, study: str, method: str | None = None) -> dict[str, Any]:
    """The effective params of a study (see `effective`), which must have the method.

    Raises ValueError, one line that says what is wrong and what would be right. Does not import torch.
    """
    content = read_yaml(params)
    try:
        entry = effective(content, study)
    except ValueError as error:
        raise ValueError(f"{params}: {error}") from None
    if method is not None and method not in (known := entry["models"]):
        raise ValueError(
            f"{params}: no method {method!r} in {study}{_nearest(method, known)}; there are {', '.join(known)}"
        )
    return entry


def effective(content: dict[str, Any], study: str) -> dict[str, Any]:
    """The validated params of a study: inherited parts are merged in, models have their network and training, recipes are
    complete, and optional parts that are absent are null. Applying it again changes nothing. Raises ValueError."""
    entries = lineage(content, study)
    entry: dict[str, Any] = functools.reduce(merged, reversed(entries.values()), {})
    entry.pop("like", None)
    methods = content.get("methods")
    try:
        _write_out(entry, [str(name) for name in methods] if isinstance(methods, list) else [])
        _check(entry)
        _check_names(entry)
    except _Mistake as mistake:
        raise ValueError(f"{_place(entries, mistake)}: {mistake.message}") from None
    models = entry["models"]
    if not models:
        raise ValueError(f"{study}.models: must name at least one method")
    for part in ("ood", "scores"):
        for name in (entry.get(part) or {}).get("cheaper", {}):
            if name not in models:
                known = f"{_nearest(name, models)}; there are {', '.join(models)}"
                raise ValueError(f"{study}.{part}.cheaper: no method {name!r}{known}")
    entry = {"precision": "fp32"} | entry | {"sampling": {name: entry["sampling"].get(name, {}) for name in models}}
    for name, model in models.items():
        if model.get("warm"):
            _check_warm(entry, f"{study}.models.{name}", model["network"])
    return {part: entry.get(part) for part in _definitions()["Study"]["properties"]}


def _write_out(entry: dict[str, Any], methods: list[str]) -> None:
    """Expand a study's shorthand: add the methods whose defaults suffice, remove the entries of its TABLES that are null,
    and let its models inherit its `network` and `training`."""
    models = entry.get("models")
    if isinstance(models, dict):
        named = [name for name in methods if name in models or _defaults_serve(name, entry)]
        entry["models"] = {name: {} for name in named} | models
    for table in [table for path in TABLES for table in tables(entry, path)]:
        for name in [name for name, part in table.items() if part is None]:
            del table[name]
    for path in ("models.*", *OTHERS):
        for model in tables(entry, path):
            model |= {part: merged(entry.get(part), model.get(part, {})) for part in ("network", "training")}
    _write_out_recipes(entry)


def _write_out_recipes(entry: dict[str, Any]) -> None:
    """Let each recipe of a method inherit from the study's recipe of the same name; remove the study's `recipes`."""
    recipes = entry.pop("recipes", {})
    if not isinstance(recipes, dict):
        raise _Mistake(["recipes"], f"must map names to recipes, not {recipes!r}")
    for name, recipe in recipes.items():
        if not isinstance(recipe, dict) or "recipe" not in recipe:
            raise _Mistake(["recipes", name], f"lacks recipe: {recipe!r}")
    for sampling in tables(entry, "sampling"):
        for method, table in sampling.items():
            for name, own in table.items() if isinstance(table, dict) else ():
                table[name] = recipe = merged(recipes.get(name), own)
                if name not in recipes and isinstance(recipe, dict) and "recipe" not in recipe:
                    names = f"{_nearest(name, recipes)}; there are {', '.join(map(str, recipes)) or 'none'}"
                    raise _Mistake(["sampling", method, name], f"lacks recipe, and is not in recipes{names}")


def studies(content: dict[str, Any]) -> list[str]:
    """The names of the studies of a params file."""
    return [name for name, entry in content.items() if isinstance(entry, dict) and name not in BESIDE]


def lineage(content: dict[str, Any], study: str) -> dict[str, dict[str, Any]]:
    """{place: entry} of a study and of everything that it inherits from, nearest first. Raises ValueError."""
    known = studies(content)
    if study not in known:
        raise ValueError(f"no study {study!r}{_nearest(study, known)}; there are {', '.join(known)}")
    if not re.fullmatch(NAME, study):
        raise ValueError(f"the name {study!r} of a study must consist of letters, digits, - and _")
    entries = {name: (f"bases.{name}", table[name]) for table in tables(content, "bases") for name in studies(table)}
    entries |= {name: (name, content[name]) for name in known}
    found: dict[str, dict[str, Any]] = {}
    name = study
    while True:
        place, entry = entries[name]
        if place in found:
            raise ValueError(f"{list(found)[-1]}.like: must not be circular: {' -> '.join([*found, place])}")
        found[place] = entry
        if "like" not in entry:
            return found
        name = str(entry["like"])
        if name not in entries:
            names = f"{_nearest(name, entries)}; there are {', '.join(entries)}"
            raise ValueError(f"{place}.like: no study or base {name!r}{names}")


def merged(general: Any, own: Any) -> Any:
    """A copy of `own` with what it inherits from `general`, at any depth. Dicts of KINDS and WHOLE inherit nothing; a value
    that is not a dict replaces the inherited one."""
    if not isinstance(own, dict):
        return list(own) if isinstance(own, list) else own
    inherited = general if isinstance(general, dict) and not KINDS & own.keys() else {}
    both = inherited | own
    return {key: merged(None if key in WHOLE else inherited.get(key), value) for key, value in both.items()}


def tables(entry: dict[str, Any], path: str) -> list[dict[str, Any]]:
    """The dicts at a path in the entry, where * stands for any key."""
    found = [entry]
    for key in path.split("."):
        inner = [part for table in found for name, part in table.items() if key in ("*", name)]
        found = [part for part in inner if isinstance(part, dict)]
    return found


class _Mistake(Exception):
    """A mistake in an entry: its path, a message and, if there is one, the unknown key."""

    def __init__(self, path: list[Any], message: str, key: str | None = None):
        super().__init__(message)
        self.path, self.message, self.key = [str(key) for key in path], message, key


def _place(entries: dict[str, dict[str, Any]], mistake: _Mistake) -> str:
    """Where in the params file the mistake in a study is; entries: the study's `lineage`."""
    paths = [mistake.path]
    match mistake.path:
        case ["sampling", _, *recipe] if recipe:
            paths.append(["recipes", *recipe])
        case ["models", _, "network" | "training", *_]:
            paths.append(mistake.path[2:])
        case ["judge" | "warm", "network" | "training", *_]:
            paths.append(mistake.path[1:])
    for path in paths:
        for place, entry in entries.items():
            for key in path if mistake.key is None else [*path, mistake.key]:
                entry = entry.get(key, ...) if isinstance(entry, dict) else entry if isinstance(entry, list) else ...
            if entry is not ...:
                return ".".join([place, *path])
    return ".".join([next(iter(entries)), *mistake.path])


def _check_warm(entry: dict[str, Any], where: str, network: dict[str, Any]) -> None:
    """Raises ValueError if a model cannot start from the study's warm start."""
    if entry.get("warm") is None:
        raise ValueError(f"{where}.warm: the study has no warm start; write warm: false, or give the study an entry warm")
    ours, theirs = (
        {k: v for k, v in n.items() if k not in ("norm", "bn_momentum", "checkpoint")}
        for n in (network, entry["warm"]["network"])
    )
    if ours != theirs:
        raise ValueError(f"{where}.network: must be that of the warm start except for its norm: {theirs}, not {ours}")


def change_models(entry: dict[str, Any], methods: list[str], changes: list[str]) -> None:
    """Set KEY=VALUE in the entry of each of the methods. Raises ValueError for any other form."""
    from advebm.runtime import yaml12

    for change in changes:
        key, equals, value = change.partition("=")
        if not key or not equals:
            raise ValueError(f"--set {change}: must be KEY=VALUE, such as training.optimizer.lr=0.1")
        try:
            parsed = yaml12.load(value)
        except yaml12.YAMLError as error:
            raise ValueError(f"--set {change}: {value} is not YAML") from error
        *parents, last = key.split(".")
        for name in methods:
            target = model_entry(entry, name)
            for parent in parents:
                target = target.setdefault(parent, {})
                if not isinstance(target, dict):
                    raise ValueError(f"--set {change}: {parent} of {name} is {target}, which has no keys")
            target[last] = parsed


def read_yaml(params: Path) -> dict[str, Any]:
    """The whole params file. Raises ValueError if it is missing, not YAML, or holds no studies."""
    from advebm.runtime import yaml12

    try:
        content = yaml12.load(read_text(params))
    except FileNotFoundError as error:
        raise ValueError(f"{params}: no such file; run in the project's folder, or name a file by --params") from error
    except (yaml12.YAMLError, ValueError) as error:
        raise ValueError(f"{params}: is not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict) or not any(isinstance(entry, dict) for entry in content.values()):
        raise ValueError(f"{params}: holds no studies; a study is a key with data, models, sampling, ...")
    return content


def check_top(params: Path) -> None:
    """Raises ValueError if seed, launch or methods, which dvc.yaml reads, are wrong."""
    content = read_yaml(params)
    processes(params)
    seed, methods = content.get("seed"), content.get("methods")
    if type(seed) is not int or seed < 0:
        raise ValueError(f"{params}: seed must be an integer of at least 0, not {seed!r}")
    known = _definitions()["Models"]["properties"]
    if not isinstance(methods, list) or not methods or not set(map(str, methods)) <= set(known):
        raise ValueError(f"{params}: methods must be a list of {', '.join(known)}, not {methods!r}")


def processes(params: Path) -> int:
    """launch.processes, the number of processes that share a stage, by default 1. Raises ValueError."""
    launch = read_yaml(params).get("launch", {"processes": 1})
    count = launch.get("processes") if isinstance(launch, dict) and set(launch) == {"processes"} else None
    if type(count) is not int or count < 1:
        raise ValueError(f"{params}: launch must be {{processes: N}} with N an integer of at least 1, not {launch!r}")
    return count


def read_toy2d(params: Path) -> dict[str, Any]:
    """The validated entry toy2d of params.yaml. Raises ValueError."""
    entry = read_yaml(params).get("toy2d")
    if not isinstance(entry, dict):
        raise ValueError(f"{params}: lacks toy2d, the parameters of the 2-D experiment")
    check(entry, f"{params}: toy2d", "Toy2d")
    return entry


def check(entry: dict[str, Any], where: str, kind: str = "Study") -> None:
    """Raises ValueError for the first mistake in the entry by the schema of `kind`."""
    try:
        _check(entry, kind)
    except _Mistake as mistake:
        raise ValueError(f"{'.'.join([where, *mistake.path])}: {mistake.message}") from None


def _check(entry: dict[str, Any], kind: str = "Study") -> None:
    """Raises _Mistake for the first mistake in the entry by the schema of `kind`."""
    from jsonschema.exceptions import best_match

    if kind == "Study":  # an optional part may be null
        study = _definitions()["Study"]
        optional = {key for key, part in study["properties"].items() if "$ref" in part}.difference(study["required"])
        entry = {key: part for key, part in entry.items() if part is not None or key not in optional}
    error = best_match(_validator(kind).iter_errors(entry))
    if error is None:
        if (wrong := not_finite(entry)) is not None:
            raise _Mistake(wrong[0], f"{wrong[1]} is not a finite number")
        return
    path, value = list(error.absolute_path), error.instance
    match error.validator:
        case "additionalProperties":
            known = list(error.schema["properties"])
            wrong = next(key for key in value if key not in known)
            raise _Mistake(path, f"unknown key {wrong!r}{_nearest(wrong, known)}; known are {', '.join(known)}", wrong)
        case "required":
            missing = [key for key in error.validator_value if key not in value]
            raise _Mistake(path, f"lacks {', '.join(missing)}")
    raise _Mistake(path, error.message)


def _check_names(entry: dict[str, Any]) -> None:
    """Raises _Mistake for a name that cannot be a key of results, or is one already, and for a metric of no measurement."""
    stage = (entry.get("promote") or {"metric": "quality/"})["metric"].partition("/")[0]
    if stage not in MEASUREMENTS:
        known = f"{_nearest(stage, MEASUREMENTS)}; there are {', '.join(MEASUREMENTS)}"
        raise _Mistake(
            ["promote", "metric"], f"must begin with a measurement, as in quality/sgld/fid, not {stage!r}{known}"
        )
    named = {("data", "out"): entry["data"]["out"], ("robustness", "attacks"): entry["robustness"]["attacks"]}
    named |= {("sampling", method): recipes for method, recipes in entry["sampling"].items()}
    for path, table in named.items():
        for name in map(str, table):
            if not re.fullmatch(NAME, name):
                raise _Mistake([*path, name], f"the name {name!r} must consist of letters, digits, - and _")
            if name in RESERVED or name.endswith("_strip"):
                raise _Mistake([*path, name], f"the name {name!r} is the program's own; take another")


@functools.cache
def _definitions() -> dict[str, Any]:
    return json.loads(SCHEMA.read_text())["$defs"]


def _validator(kind: str) -> Any:
    from jsonschema import Draft202012Validator

    return Draft202012Validator({"$ref": f"#/$defs/{kind}", "$defs": _definitions()})


def _defaults_serve(method: str, entry: dict[str, Any]) -> bool:
    """Whether the study's network and training are all that a model of the method needs."""
    model = _definitions()["Models"]["properties"].get(method)
    general = {part: entry.get(part) for part in ("network", "training")}
    return model is not None and _validator(model["$ref"].rpartition("/")[2]).is_valid(general)


def _nearest(word: object, known: Iterable[object]) -> str:
    close = difflib.get_close_matches(str(word), [str(k) for k in known], 1)
    return f" (did you mean {close[0]}?)" if close else ""


def schema() -> dict[str, Any]:
    """The JSON schema of params.yaml: its `$defs` hold Study, as `effective` completes it, and Toy2d."""
    from pydantic import Field, TypeAdapter
    from typing_extensions import TypeAliasType

    from advebm.methods import METHODS
    from advebm.networks import Spec
    from advebm.samplers.pgd import Attack
    from advebm.samplers.recipes import Recipe
    from advebm.toy2d import Toy2d
    from advebm.training import Training

    def table(name: str, kinds: Mapping[str, object]) -> type:
        return make_dataclass(name, [(key, kind, field(default=None)) for key, kind in kinds.items()], kw_only=True)

    Network, Recipes = TypeAliasType("Network", Spec), TypeAliasType("Recipes", dict[str, Recipe])

    def model(name: str, method: type["Method"], *more: tuple, bases: tuple[type, ...] = ()) -> type:
        kinds = Field(json_schema_extra={"properties": {"kind": {"enum": list(method.networks)}}})
        parts = [("network", Annotated[Network, kinds]), ("training", Training), *more]
        return make_dataclass(name, parts, bases=bases, kw_only=True)

    warm, attack = ("warm", bool, field(default=False)), ("attack", Attack, field(default=None))
    options = [(f.name, f.type, field(default=f.default)) for f in fields(METHODS["at"]) if f.name != "attack"]
    models = {name: model(f"{kind.__name__}Model", kind, warm, bases=(kind,)) for name, kind in METHODS.items()}
    study = make_dataclass(
        "Study",
        [
            ("data", Data),
            ("gaussians", Gaussian),
            ("network", Network),
            ("training", Training),
            ("judge", model("Judge", METHODS["standard"])),
            ("warm", model("Warm", METHODS["at"], attack, *options), field(default=None)),
            ("models", table("Models", models)),
            ("samples", Annotated[int, Ge(LEAST)]),
            ("precision", Precision, field(default="fp32")),
            ("sampling", table("Sampling", dict.fromkeys(METHODS, Recipes))),
            *((name, m.spec, *[field(default=None)] * (not m.required)) for name, m in MEASUREMENTS.items()),
            ("promote", Promote, field(default=None)),
        ],
        kw_only=True,
    )
    return _plain(TypeAdapter(make_dataclass("Params", [("study", study), ("toy2d", Toy2d)], kw_only=True)).json_schema())


def _plain(part: Any) -> Any:
    """The schema with unknown keys forbidden, and with unions as conditions, whose errors name the field."""
    if isinstance(part, list):
        return [_plain(item) for item in part]
    if not isinstance(part, dict):
        return part
    if "oneOf" in part:
        name, branches = part["discriminator"]["propertyName"], part["discriminator"]["mapping"]
        conditions = [
            {"if": {"properties": {name: {"const": key}}}, "then": {"$ref": target}} for key, target in branches.items()
        ]
        return {"type": "object", "required": [name], "properties": {name: {"enum": list(branches)}}, "allOf": conditions}
    plain = {key: _plain(value) for key, value in part.items() if key not in ("title", "description", "default")}
    return plain | {"additionalProperties": False} if "properties" in part and part.get("type") == "object" else plain


def build(kind: Any, entry: dict[str, Any]) -> Any:
    """An instance of `kind`, a dataclass or a union or dict of them, from its entry in params.yaml. Raises ValueError."""
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_python(entry)
    except ValidationError as error:
        first, here, message = error.errors()[0], entry, ""
        for key in first["loc"]:  # which has the kinds of unions too
            if isinstance(here, dict) and key in here:
                message, here = f"{message}{key}.", here[key]
        raise ValueError(message + first["msg"].removeprefix("Value error, ")) from None


def model(study: dict[str, Any], name: str) -> Model:
    """A model of a study that `read` returned. name: a method; "judge", which `standard` trains; or "warm", which `at`
    trains if it has an attack, else `standard`."""
    from advebm.methods import METHODS
    from advebm.networks import Spec
    from advebm.training import Training

    entry = model_entry(study, name).copy()
    network, training = build(Spec, entry.pop("network")), build(Training, entry.pop("training"))
    warm = entry.pop("warm", False)
    if name in OTHERS:
        name = "at" if entry.get("attack") else "standard"
        entry = {key: value for key, value in entry.items() if value is not None}
    method = build(METHODS[name], entry)
    return Model(method=method, network=network, training=training, warm=warm)


def trained_by(study: dict[str, Any], name: str) -> dict[str, Any]:
    """The params that a training depends on: the model's entry and, if it uses it, the digest of the warm start's."""
    entry = model_entry(study, name)
    return entry | ({"warm_start": digest(study["warm"])[:16]} if entry.get("warm") else {})


def model_entry(study: dict[str, Any], name: str) -> dict[str, Any]:
    """The study's entry for a method, the judge or the warm start."""
    return study[name] if name in OTHERS else study["models"][name]


def recipes(study: dict[str, Any], name: str) -> dict[str, Any]:
    """The method's recipes by name."""
    from advebm.samplers.recipes import Recipe

    return build(dict[str, Recipe], study["sampling"][name])


def stage_specs(study: dict[str, Any], method: str) -> dict[str, Any]:
    """The params of sampling and of each measurement, by stage."""
    sample = {key: study[key] for key in ("samples", "precision")} | {"sampling": study["sampling"][method]}
    specs = {"sample": sample}
    for name, measurement in MEASUREMENTS.items():
        if study.get(name) is not None:
            specs[name] = {name: study[name], **sample} if measurement.sampled else study[name]
    return specs


def flat(entry: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested dicts: {"a": {"b": 1}} becomes {"a.b": 1}."""
    result: dict[str, Any] = {}
    for key, value in entry.items():
        result |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return result


if __name__ == "__main__":
    text = json.dumps(schema(), indent=1) + "\n"
    SCHEMA.write_text(re.sub(r"[\[{][^][{}]*[\]}]", lambda innermost: " ".join(innermost[0].split()), text))
    print(f"wrote {SCHEMA}")
