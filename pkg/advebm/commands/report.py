"""The selected method's numbers beside the published ones, and all methods of a study side by side."""

import json
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from advebm import config
from advebm.commands import options as o

Results = Annotated[Path, Option(help="folder with quality.json, ood.json and robustness.json")]


def report(
    method: o.Method,
    results: Results,
    out: Annotated[Path, Option(help="the JSON file to write; the Markdown file lies beside it")],
    study: o.Study = "digits",
    params: o.Params = o.PARAMS,
) -> None:
    """Write a method's numbers beside the published ones, as JSON and Markdown, and print them."""
    config.read(params, study, method)
    found = measured(results)
    text = markdown(study, method, found, results)
    out.parent.mkdir(parents=True, exist_ok=True)
    numbers = {
        "robustness": found["robustness"],
        "quality": {
            name: {key: value for key, value in entry.items() if key != "protocol"}
            for name, entry in found["quality"].items()
            if name != "baselines"
        },
        "ood": found["ood"],
    }
    out.write_text(json.dumps(numbers, indent=1) + "\n")
    out.with_suffix(".md").write_text(text)
    print(text)


def compare(
    results: Annotated[Path, Option(help="folder with a sub-folder for each method")],
    out: Annotated[Path, Option(help="the JSON file to write; a Markdown file and pictures lie beside it")],
    study: o.Study = "digits",
    params: o.Params = o.PARAMS,
) -> None:
    """Write all methods of a study in one table, with a row of samples for each."""
    models = config.read(params, study)["models"]
    methods = [method for method in models if (results / method).is_dir()]
    if not methods:
        raise FileNotFoundError(f"{results}: no results of a method there; `dvc repro -P` makes them")
    from advebm import figures
    from advebm.commands.sample import sampled

    found = {method: measured(results / method) for method in methods}
    rows, samples = {}, {}
    for method, numbers in found.items():
        images = sampled(results / method / "samples", [n for n in numbers["quality"] if n != "baselines"])
        for recipe in images or [None]:
            name = method if recipe is None else f"{method}/{recipe}"
            rows[name] = row(numbers, recipe)
        samples |= {f"{method}/{recipe}": content.x for recipe, content in images.items()}
    baselines = found[methods[0]]["quality"]["baselines"]
    for name in baselines:
        rows[f"({name})"] = {key: baselines[name][key] for key in ("fid", "kid_mean", "is_mean", "label_consistency")}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(rows, indent=1) + "\n")
    columns = list(dict.fromkeys(key for values in rows.values() for key in values))
    lines = [
        f"# {study}: every method",
        "",
        *table(["model/recipe", *columns], [[n, *(v.get(c) for c in columns)] for n, v in rows.items()]),
    ]
    lines += ["", protocols(baselines)]
    out.with_suffix(".md").write_text("\n".join(lines) + "\n")
    if samples:
        figures.sheets(samples, out.with_suffix(".png"), f"{study}: the first samples of each method and recipe")
    print("\n".join(lines))


def measured(results: Path) -> dict[str, dict[str, Any]]:
    """The contents of a method's quality.json, ood.json and robustness.json, by name."""
    found = {name: read_json(results / f"{name}.json", name) for name in ("quality", "ood", "robustness")}
    for name, key in (("quality", "baselines"), ("robustness", "attacks")):
        if key not in found[name]:
            raise ValueError(f"{results / name}.json: lacks {key}; run `advebm {name}` again")
    return found


def read_json(file: Path, command: str) -> dict[str, Any]:
    """What a command wrote. Raises FileNotFoundError or ValueError that names the file and the command."""
    try:
        content = json.loads(file.read_text())
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{file}: not there; `advebm {command}` makes it") from error
    except ValueError as error:
        raise ValueError(f"{file}: is damaged ({error}); run `advebm {command}` again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file}: is damaged (not an object); run `advebm {command}` again")
    return content


def row(found: dict[str, dict[str, Any]], recipe: str | None) -> dict[str, float | None]:
    """A line of the comparison: what was measured of a method, and of the samples of one of its recipes."""
    quality = found["quality"].get(recipe, {})
    return {
        "clean": found["robustness"]["clean"],
        **{name: a["accuracy"] for name, a in found["robustness"]["attacks"].items()},
        **{key: quality.get(key) for key in ("fid", "kid_mean", "is_mean", "label_consistency")},
        **{f"auc {name}": entry["auc"] for name, entry in found["ood"].items()},
        **{f"worst {name}": entry["auc_worst"] for name, entry in found["ood"].items()},
    }


def markdown(study: str, method: str, found: dict[str, dict[str, Any]], results: Path) -> str:
    """The report of a method."""
    import yaml

    quality, robust = dict(found["quality"]), found["robustness"]
    baselines = quality.pop("baselines")
    published = yaml.safe_load(Path(__file__).parents[1].joinpath("published.yaml").read_text()).get(method, [])
    lines = [f"# {study}: {method}", "", "## Accuracy on test images", ""]
    names = [
        f"{name}: {a['norm']} {a['eps']:.3g} on {a['ascends']}, best of {a['restarts']}"
        for name, a in robust["attacks"].items()
    ]
    values = [a["accuracy"] for a in robust["attacks"].values()]
    lines += table(["", "clean", *names, "n"], [["here", robust["clean"], *values, robust["n"]]])
    lines += ["", "## Samples", ""]
    keys = ["fid", "kid_mean", "is_mean", "is_std", "label_consistency", "n"]
    rows = [[name, *(entry[k] for k in keys)] for name, entry in quality.items()]
    rows += [[f"({name})", *(entry[k] for k in keys)] for name, entry in baselines.items()]
    lines += table(["recipe", *keys], rows)
    lines += ["", protocols(baselines), "", "## Out-distribution images", ""]
    lines += table(
        ["set", "AUC", "AUC, worst case", "n"], [[k, v["auc"], v["auc_worst"], v["n"]] for k, v in found["ood"].items()]
    )
    lines += ["", "## Published, on CIFAR-10", ""]
    keys = ["model", "recipe", "clean", "robust", "is", "fid", "source"]
    lines += table(keys, [[entry[k] for k in keys] for entry in published])
    lines += [
        "",
        "Published: clean and robust accuracy in percent, robust by PGD-20 at Linf 8/255; IS and FID of up to 50,000 "
        "images by Inception, each by a protocol of its own. Only study cifar10 is to be compared with them.",
        "",
        "## Where to look",
        "",
        f"- samples: {results}/samples/pictures/",
        f"- out-distribution detection: {results}/ood.png",
        "- this report: report.md, report.json",
        "- every run: MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow ui --workers 1 --backend-store-uri sqlite:///mlflow.db",
        "",
    ]
    return "\n".join(lines)


def protocols(baselines: dict[str, dict[str, Any]]) -> str:
    return "Protocol: " + "; ".join(dict.fromkeys(entry["protocol"] for entry in baselines.values())) + "."


def table(header: list[str], rows: list[list[Any]]) -> list[str]:
    """Lines of Markdown, the columns aligned; what does not apply is a dash."""

    def text(value: Any) -> str:
        return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)

    cells = [[text(value) for value in line] for line in [header, *rows]]
    widths = [max(len(line[i]) for line in cells) for i in range(len(header))]
    lines = [
        "| " + " | ".join(value.ljust(width) for value, width in zip(line, widths, strict=True)) + " |" for line in cells
    ]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]
