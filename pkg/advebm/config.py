"""params.yaml -> dataclasses, strictly.

What a study may hold is told by the dataclasses themselves (`Study` here, the methods, the recipes), once: `schema()`
makes a JSON schema of them, which is kept in params.schema.json so that a mistake is told before torch is imported.
`python -m advebm.config` writes that file anew; a test compares it.
"""

import difflib
import json
import math
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import MinLen

from advebm.evaluation import MEASUREMENTS
from advebm.ranges import Count, Positive, Precision
from advebm.runtime.project import digest

if TYPE_CHECKING:
    from advebm.methods import Method
    from advebm.networks import Spec
    from advebm.training import Training

SCHEMA = Path(__file__).with_name("params.schema.json")
OTHERS = ("judge", "warm")  # models of a study beside those of its methods


@dataclass(kw_only=True)
class Data:
    """Which images, see data/sources.py for the names. Sets without splits of their own are split, stratified."""

    source: str
    validation: Count  # images held out of training to tune on
    test: Count | None = None  # images held out to report on; null where the source has a test split
    outliers: str  # out-distribution images for training
    out: Annotated[dict[str, str], MinLen(1)]  # out-distribution sets for testing, by name
    out_size: Count = 1024  # images of each, fewer where there are fewer


@dataclass(kw_only=True)
class Model:
    """A method, and the network and training it is used with."""

    method: "Method"
    network: "Spec"
    training: "Training"
    warm: bool = False  # whether it starts from the study's warm start


@dataclass(kw_only=True)
class Gaussian:
    ridge: Positive  # added to the covariance's diagonal, images in [0, 1]


def read(params: Path, study: str, method: str | None = None) -> dict[str, Any]:
    """The study's part of params.yaml, checked, each model with its network and training written out.

    A study that is `like` another takes from it every part that it does not hold itself. A model's `network` and
    `training` hold only what differs from the study's; a network of another kind stands alone.
    Raises ValueError, in one line that says what is wrong and what would be right. Does not import torch.
    """
    content = read_yaml(params)
    studies = [name for name, entry in content.items() if isinstance(entry, dict) and name not in ("launch", "toy2d")]
    if study not in studies:
        raise ValueError(f"{params}: no study {study!r}{_nearest(study, studies)}; there are {', '.join(studies)}")
    entry = content[study]
    if "like" in entry:
        like = entry["like"]
        if like not in studies or "like" in content[like]:
            raise ValueError(f"{params}: {study}.like: must be a study that is not like another itself, not {like!r}")
        read(params, like)  # so that what is wrong there is told under its name
        entry = content[like] | {key: part for key, part in entry.items() if key != "like"}
    models = entry.get("models")
    for model in [*(models.values() if isinstance(models, dict) else ()), *map(entry.get, OTHERS)]:
        if isinstance(model, dict):
            for part in ("network", "training"):
                if isinstance(entry.get(part), dict) and isinstance(model.get(part, {}), dict):
                    own = model.get(part, {})
                    model[part] = own if _other_kind(entry[part], own) else entry[part] | own
    check(entry, f"{params}: {study}")
    if not models:
        raise ValueError(f"{params}: {study}.models: must name at least one method")
    entry.setdefault("warm", None)
    entry.setdefault("precision", "fp32")
    for name, model in models.items():
        if name not in entry["sampling"]:
            raise ValueError(f"{params}: {study}.sampling has no recipes for {name}; {{}} says that there are none")
        if model.get("warm"):
            _check_warm(entry, f"{params}: {study}.models.{name}", model["network"])
    if method is not None and method not in models:
        raise ValueError(
            f"{params}: no method {method!r} in {study}{_nearest(method, models)}; there are {', '.join(models)}"
        )
    return entry


def _check_warm(entry: dict[str, Any], where: str, network: dict[str, Any]) -> None:
    """Raises ValueError where a model that starts from the study's warm start cannot."""
    if entry["warm"] is None:
        raise ValueError(f"{where}.warm: the study has no warm start; write warm: false, or give the study an entry warm")
    ours, theirs = (
        {k: v for k, v in n.items() if k not in ("norm", "bn_momentum")} for n in (network, entry["warm"]["network"])
    )
    if ours != theirs:
        raise ValueError(f"{where}.network: must be that of the study's warm start but for its norm: {theirs}, not {ours}")


def change_models(entry: dict[str, Any], methods: list[str], changes: list[str]) -> None:
    """Put KEY=VALUE into the entry of each of the methods. Raises ValueError where it is not of that form."""
    import yaml

    for change in changes:
        key, equals, value = change.partition("=")
        if not key or not equals:
            raise ValueError(f"--set {change}: must be KEY=VALUE, such as training.optimizer.lr=0.1")
        try:
            parsed = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ValueError(f"--set {change}: {value} is not YAML") from error
        *parents, last = key.split(".")
        for name in methods:
            target = model_entry(entry, name)
            for parent in parents:
                target = target.setdefault(parent, {})
                if not isinstance(target, dict):
                    raise ValueError(f"--set {change}: {parent} of {name} is {target}, which holds no {last}")
            target[last] = parsed


def _other_kind(general: dict[str, Any], own: dict[str, Any]) -> bool:
    """Whether a network is of another kind than the study's, and so takes nothing of it."""
    return own.get("kind", general.get("kind")) != general.get("kind")


def read_yaml(params: Path) -> dict[str, Any]:
    """The whole params file. Raises ValueError where it is missing, not YAML, or holds no studies."""
    import yaml

    try:
        content = yaml.load(Path(params).read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except FileNotFoundError as error:
        raise ValueError(f"{params}: no such file; run in the project's folder or name one by --params") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{params}: is not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict) or not any(isinstance(entry, dict) for entry in content.values()):
        raise ValueError(f"{params}: holds no studies; a study is a key with data, models, sampling, ...")
    return content


def check_top(params: Path) -> None:
    """Raises ValueError where seed, launch or methods, which dvc.yaml reads, are wrong."""
    content = read_yaml(params)
    processes(params)
    seed, methods = content.get("seed"), content.get("methods")
    if type(seed) is not int or seed < 0:
        raise ValueError(f"{params}: seed must be an integer of at least 0, not {seed!r}")
    known = json.loads(SCHEMA.read_text())["$defs"]["Models"]["properties"]
    if not isinstance(methods, list) or not methods or not set(map(str, methods)) <= set(known):
        raise ValueError(f"{params}: methods must be a list of {', '.join(known)}, not {methods!r}")


def processes(params: Path) -> int:
    """launch.processes: how many processes share the work of a stage, 1 where nothing is said. Raises ValueError."""
    launch = read_yaml(params).get("launch", {"processes": 1})
    count = launch.get("processes") if isinstance(launch, dict) and set(launch) == {"processes"} else None
    if type(count) is not int or count < 1:
        raise ValueError(f"{params}: launch must be {{processes: N}} with N an integer of at least 1, not {launch!r}")
    return count


def read_toy2d(params: Path) -> dict[str, Any]:
    """The part of params.yaml of the 2-D experiment, checked. Raises ValueError."""
    entry = read_yaml(params).get("toy2d")
    if not isinstance(entry, dict):
        raise ValueError(f"{params}: lacks toy2d, the numbers of the 2-D experiment")
    check(entry, f"{params}: toy2d", "Toy2d")
    return entry


def check(entry: dict[str, Any], where: str, kind: str = "Study") -> None:
    """Raises ValueError with the first thing in the entry that the schema forbids of its kind."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    if entry.get("warm", {}) is None:  # the study has no warm start
        entry = {key: part for key, part in entry.items() if key != "warm"}
    schema = {"$ref": f"#/$defs/{kind}", "$defs": json.loads(SCHEMA.read_text())["$defs"]}
    error = best_match(Draft202012Validator(schema).iter_errors(entry))
    if error is None:
        for path, value in flat(entry).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{where}.{path}: {value} is not a finite number")
        return
    path = ".".join([where, *map(str, error.absolute_path)])
    value = error.instance
    match error.validator:
        case "additionalProperties":
            known = list(error.schema["properties"])
            wrong = next(key for key in value if key not in known)
            raise ValueError(f"{path}: unknown key {wrong!r}{_nearest(wrong, known)}; known are {', '.join(known)}")
        case "required":
            missing = [key for key in error.validator_value if key not in value]
            raise ValueError(f"{path}: lacks {', '.join(missing)}")
        case "type" if isinstance(value, str) and _is_number(value):
            raise ValueError(f"{path}: {value!r} is text to YAML; write {float(value)!r} (1e-4 is 1.0e-4)")
    raise ValueError(f"{path}: {error.message}")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _nearest(word: str, known) -> str:
    close = difflib.get_close_matches(str(word), [str(k) for k in known], 1)
    return f" (did you mean {close[0]}?)" if close else ""


def schema() -> dict[str, Any]:
    """The JSON schema of params.yaml: `$defs` holds Study, whose models are written out, and Toy2d."""
    from pydantic import TypeAdapter

    from advebm.methods import METHODS
    from advebm.networks import Spec
    from advebm.samplers.pgd import Attack
    from advebm.samplers.recipes import Recipe
    from advebm.toy2d import Toy2d
    from advebm.training import Training

    def table(name: str, kinds: dict[str, type]) -> type:
        return make_dataclass(name, [(key, kind, field(default=None)) for key, kind in kinds.items()], kw_only=True)

    def model(name: str, bases: tuple[type, ...]) -> type:
        parts = [("network", Spec), ("training", Training), ("warm", bool, field(default=False))]
        return make_dataclass(name, parts if bases else parts[:2], bases=bases, kw_only=True)

    attack = [("attack", Attack, field(default=None))]
    Warm = make_dataclass("Warm", attack, bases=(model("Classifier", ()),), kw_only=True)
    study = make_dataclass(
        "Study",
        [
            ("data", Data),
            ("gaussians", Gaussian),
            ("network", Spec),
            ("training", Training),
            ("judge", model("Judge", ())),
            ("warm", Warm, field(default=None)),
            ("models", table("Models", {name: model(kind.__name__, (kind,)) for name, kind in METHODS.items()})),
            ("samples", Count),
            ("precision", Precision, field(default="fp32")),
            ("sampling", table("Sampling", dict.fromkeys(METHODS, dict[str, Recipe]))),
            *((name, measurement.spec) for name, measurement in MEASUREMENTS.items()),
        ],
        kw_only=True,
    )
    return _plain(TypeAdapter(make_dataclass("Params", [("study", study), ("toy2d", Toy2d)], kw_only=True)).json_schema())


def _plain(part: Any) -> Any:
    """The schema with unknown keys forbidden, and a choice by name as conditions, whose errors name the field."""
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


def build(kind: type, entry: dict[str, Any]) -> Any:
    """A dataclass of what params.yaml says of it."""
    from pydantic import TypeAdapter

    return TypeAdapter(kind).validate_python(entry)


def model(study: dict[str, Any], name: str) -> Model:
    """The model of a study that `read` has checked; name is a method; "judge", which is trained by `standard`; or "warm",
    which is trained by `at`, or by `standard` where it has no attack."""
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
    if network.kind not in method.networks:
        raise ValueError(f"models.{name}.network.kind: {name} trains {' or '.join(method.networks)}, not {network.kind}")
    return Model(method=method, network=network, training=training, warm=warm)


def trained_by(study: dict[str, Any], name: str) -> dict[str, Any]:
    """What a training depends on of what the study says: the model's entry and, where it starts there, the warm start's."""
    entry = model_entry(study, name)
    return entry | ({"warm_start": digest(study["warm"])[:16]} if entry.get("warm") else {})


def model_entry(study: dict[str, Any], name: str) -> dict[str, Any]:
    """What the study says of a model: of a method, the judge, or the warm start."""
    return study[name] if name in OTHERS else study["models"][name]


def recipes(study: dict[str, Any], name: str) -> dict[str, Any]:
    """The recipes by which the method's images are generated, by name."""
    from advebm.samplers.recipes import Recipe

    return build(dict[str, Recipe], study["sampling"][name])


def stage_specs(study: dict[str, Any], method: str) -> dict[str, Any]:
    """What params.yaml says, beside the model, of sampling and of each measurement."""
    sample = {key: study[key] for key in ("samples", "precision")} | {"sampling": study["sampling"][method]}
    specs = {"sample": sample}
    for name, measurement in MEASUREMENTS.items():
        if study.get(name) is not None:
            specs[name] = {name: study[name], **sample} if measurement.sampled else study[name]
    return specs


def flat(entry: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} as {"a.b": 1}."""
    result = {}
    for key, value in entry.items():
        result |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return result


if __name__ == "__main__":
    SCHEMA.write_text(json.dumps(schema(), indent=1) + "\n")
    print(f"wrote {SCHEMA}")
