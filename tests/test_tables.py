"""Report, comparison and web page, made from invented measurements."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from advebm import config
from advebm.bench.timing import gflop_per_image
from advebm.commands import sweep
from advebm.commands.headline import headline
from advebm.commands.measure import leave_out
from advebm.commands.report import compare, report
from advebm.data import images
from advebm.evaluation import MEASUREMENTS
from advebm.evaluation.ood import Attacked
from advebm.evaluation.robustness import UnderAttack
from advebm.reports import field
from advebm.reports.papers import both_attacks, ours, papers
from advebm.reports.results import measured
from advebm.reports.tables import Beside, text
from advebm.runtime import disk

DATA = {"source": "digits", "out": {"a": "svhn", "b": "npz:f/val.npz"}, "outliers": "uniform"}
RECIPES = {"standard": [], "jem": ["sgld"], "robust_jem": ["combined", "sgld"], "at_ebm": ["ascent"]}


AFTER = {  # AUC after the attacks beside ours
    "descents": (0.35, "descents, ours"),
    "apgd": (0.45, "apgd, 100 steps, 5 restarts"),
    "square": (0.33, "square, 9 queries"),
    "all": (0.32, "all, the strongest of these on each image"),
}


def quality(protocol, **other):
    return {
        "fid": 2.5, "fid_se": 0.05, "kid": 0.01, "kid_se": 0.002, "is_mean": 9.25, "is_std": 0.3,
        "precision": 0.7, "recall": 0.6, "label_consistency": 0.98, "n": 500, "reference_n": 500,
        "fid_per_class": [3.0, 4.5], "protocol": f"{protocol}: 500 images", "warnings": [],
    } | other  # fmt: skip


def attack(accuracy, ascends, eps=0.1):
    interval = accuracy and [accuracy - 0.05, accuracy + 0.05]
    numbers = {"accuracy": accuracy, "ci": interval, "norm": "linf", "eps": eps}
    return numbers | {"steps": 20, "ascends": ascends, "restarts": 1}


def detection(auc):
    return {"auc": auc, "auc_ci": [auc - 0.02, auc + 0.02], "fpr95": 1 - auc}


SCORED = detection(0.8) | {
    "worst": {"l2": {"eps": 1.0, **detection(0.25), "attack": "pgd with momentum", "rounds": [0.25], "n": 24}},
    "attacks": {"apgd": {**detection(0.2), "norm": "l2", "eps": 1.0, "attack": "apgd, 100 steps, 5 restarts", "n": 64}},
}


def files(method):
    """The files that the measurements of a method write: at_ebm has no class logits, jem no Inception Score."""

    def share(value):
        return None if method == "at_ebm" else value

    signs = ["only 3 of 500 images are distinct"] if method == "robust_jem" else []
    recipes = {name: quality("ours", warnings=signs) for name in RECIPES[method]}
    if method == "jem":
        recipes |= {"sgld": quality("ours", is_mean=None, is_std=None), "replay_buffer": quality("jempp-buffer", fid=1.5)}
    worst = {
        norm: {"eps": eps, **detection(a), "attack": "pgd with momentum", "rounds": [a], "n": 64}
        for norm, eps, a in (("linf", 0.1, 0.3), ("l2", 1.0, 0.4))
    }
    after = {
        key: {**detection(a), "norm": "l2", "eps": 1.0, "attack": attack, "n": 50} for key, (a, attack) in AFTER.items()
    }
    scores = {
        "energy": {**detection(0.9), "worst": worst, "attacks": after},
        "max_softmax": {**detection(0.9), "worst": {}, "attacks": {}},
    }
    ood = detection(0.9) | {
        "auc_worst": 0.3, "auc_worst_ci": [0.2, 0.4], "fpr95_worst": 0.7, "n": 400, "score": "energy",
        "scores": scores, "curves": {"l2": {"eps": [0, 1.0], "auc": [0.9, 0.4]}},
    }  # fmt: skip
    ball = {
        "eps": 0.1, "clean": share(0.99), "apgd-ce": share(0.8), "apgd-t": share(0.79), "fab-t": share(0.79),
        "square": share(0.78), "accuracy": share(0.78), "ci": share([0.74, 0.82]),
    }  # fmt: skip
    score = {"score": 0.4, "se": 0.01, "score_symmetric": 0.1, "se_symmetric": 0.0025, "ways": "exact"}
    restored = {"psnr": 14.5, "psnr_ci": [14.0, 15.0], "ssim": 0.8, "features": 0.4, "chosen": {"steps": 10}}
    copying = {
        "l2": {"z": -4.0, "p": 1e-4} if method == "robust_jem" else {"z": 0.5, "p": 0.7},
        "features": {"z": 1.0, "p": 0.8},
    }
    distances = {"min": 0.5, "q05": 0.7, "median": 1.0}
    near = {"l2": distances, "features": distances, "ssim": {"max": 0.95, "median": 0.9, "n": 6}, "n": 500}
    return {
        "quality": recipes | {"baselines": {name: quality("ours") for name in ("gaussians", "real")}},
        "ood": {"photographs": ood, "uniform": ood},
        "robustness": {
            "clean": share(0.99), "clean_ci": share([0.98, 1.0]), "linf": {"eps": 0.1, "pgd20": share(0.86)}, "n": 500,
            "attacks": {
                "pgd20": attack(share(0.86), "ce"),
                "wide": attack(share(0.25), "ce", eps=0.2),
                "energy": attack(share(0.35), "energy", eps=0.2),
            },
            "curve": {"norm": "linf", "eps": [0, 0.1], "accuracy": [0.99, 0.8], "loss": [0.1, 0.7]},
            "warnings": ["the loss does not rise"] if method == "robust_jem" else [],
        },
        "autoattack": {"n": 300, "linf": ball, "l2": ball | {"eps": 0.5}, "warnings": []},
        "fisher": {"joint": share(score), "marginal": score, "n": 200},
        "calibration": {
            "ece": share(0.02), "ece_ci": share([0.01, 0.03]), "accuracy": share(0.99), "confidence": share(0.97),
            "n": 500, "bins": [{"low": 0.0, "high": 1.0, "confidence": None, "accuracy": None, "count": 0}],
        },
        "landscape": {"radius": 1.0, "images": 4, "rise": 3.5},
        "neighbours": {name: {**near, "copying": copying} for name in RECIPES[method]}
        | {"test images": {**near, "copying": {}}},
        "interpolation": {name: {"smoothness": 0.8} for name in RECIPES[method]},
        "applications": {
            "recipe": next(iter(RECIPES[method]), None), "n": 100,
            "tasks": {"inpainting": {"mean": restored | {"chosen": {}}, "sgld": restored}},
            "painting": {
                "held": 0.9, "held_ci": [0.8, 0.95], "before": 0.01, "pasted": 0.4, "moved": 1.5, "outside": 0.0, "n": 100,
            },
            "translation": {"source": "photographs", "steps": [0, 20], "fid": [38.0, 24.0], "moved": [0, 1.5], "n": 100},
            "composition": {"3 or 8": {"held": 1.0, "held_ci": [0.96, 1.0], "shares": {"3": 0.5, "8": 0.5}, "n": 100}},
        },
    }  # fmt: skip


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def study(tmp_path):
    """Results and curves of a few methods, as the stages write them."""
    for method in RECIPES:
        results = tmp_path / "results" / method
        for recipe in RECIPES[method]:
            images.save(results / "samples" / f"{recipe}.npz", images.Images(np.zeros((30, 8, 8, 1), np.uint8), None))
            for name in (recipe, f"{recipe}_strip"):
                picture(results / "samples" / "pictures" / f"{name}.png")
        results.mkdir(parents=True, exist_ok=True)
        other = {name: {"n": 400, "scores": {"max_softmax": SCORED}} for name in ("photographs", "uniform")}
        disk.write_json(tmp_path / "results" / "scores" / f"{method}.json", other)
        for name, content in files(method).items():
            (results / f"{name}.json").write_text(json.dumps(content))
        drawn = (
            "ood",
            "ood_fooled",
            "robustness",
            "calibration",
            "landscape",
            "neighbours",
            "interpolation",
            "applications",
        )
        for name in drawn:
            picture(results / f"{name}.png")
        picture(tmp_path / "models" / method / "curves.png")
    return tmp_path


def reported(study, method):
    out = study / "report.json"
    model = study / "models" / method / "model.safetensors"
    report(method, study / "results" / method, model, out, study="tiny", params=Path("params.yaml"))
    return json.loads(out.read_text()), out.with_suffix(".md").read_text()


def compared(study, out, *methods):
    folders = {name: study / name for name in ("results", "models")}
    compare(list(methods) or None, **folders, out=out, study="tiny", params=Path("params.yaml"))
    return out.with_suffix(".html").read_text()


def checked(page):
    """The sources of a page's pictures, after a check that it is whole: every tag closed, every link inside, no network."""
    sources = re.findall(r'src="([^"]*)"', page)
    assert all(source.startswith("data:image/png;base64,") for source in sources) and "<script" not in page
    assert "http" not in re.sub(r'src="[^"]*"', "", page) and "url(" not in page
    assert page.count("<figcaption>") == len(sources)
    ids = re.findall(r'id="([^"]*)"', page)
    assert len(ids) == len(set(ids)) and {link[1:] for link in re.findall(r'href="([^"]*)"', page)} <= set(ids)
    opened = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, _: opened.append(tag) if tag not in ("meta", "img") else None
    parser.handle_endtag = lambda tag: opened.pop() == tag or pytest.fail(f"</{tag}>")
    parser.feed(page)
    assert opened == [] and "prefers-color-scheme: dark" in page and 'name="viewport"' in page
    return sources


def test_the_first_table_of_a_page_is_filled_between_its_lines(study, capsys):
    page = study / "README.md"
    page.write_text("# a\n\n<!-- headline cifar10-fast -->\nold\n<!-- end headline -->\n\nb\n")
    given = {"results": study / "results", "method": ["robust_jem", "at_ebm", "jeat"]}
    for file in (study / "results").glob("*/ood.json"):
        file.write_text(file.read_text().replace("photographs", "svhn"))  # the first set of cifar10-fast
    for _ in range(2):  # the second time over the first table
        headline(page, study="cifar10-fast", **given)
        lines = [re.sub(" +", " ", line) for line in page.read_text().splitlines()]
        rows = [
            "| robust_jem | combined | 0.99 | 0.86 | 2.5 ± 0.05 | 0.98 | 0.9 | 0.3 | 1 | 47.92 (RJ Table 1) |",
            "| | sgld | | | 2.5 ± 0.05 | 0.98 | | | | 41.17 (RJ Table 1) |",
            "| at_ebm | ascent | - | - | 2.5 ± 0.05 | 0.98 | 0.9 | 0.3 | 1 | 13.21 (AE Table 2) |",
            "| jeat | sgld | not run | - | - | - | - | - | - | 38.24 (JT Table 2) |",
        ]
        start = lines.index(rows[0])
        assert lines[start : start + 4] == rows and lines[:3] == ["# a", "", "<!-- headline cifar10-fast -->"]
        assert lines[start + 4 :] == ["", "<!-- end headline -->", "", "b"] and "old" not in lines
    assert rows[3] in re.sub(" +", " ", capsys.readouterr().out)
    for name in ("quality", "ood"):  # as `away` leaves a method that is only partly measured
        (study / "results/at_ebm" / f"{name}.json").unlink()
    headline(page, study="cifar10-fast", **given)
    assert "| at_ebm | - | - | - | - | - | - | - | 1 | - |" in re.sub(" +", " ", page.read_text())
    for name, content, error in (("none.md", None, FileNotFoundError), ("bare.md", "# a\n", ValueError)):
        if content:
            (study / name).write_text(content)
        with pytest.raises(error, match=f"{name}: (no such file|lacks the lines <!-- headline tiny -->)"):
            headline(study / name, study="tiny", **given)


def test_the_table_of_the_field_is_filled_between_its_lines(study):
    page = study / "field.md"
    page.write_text("<!-- field tiny -->\n<!-- end field -->\n\n<!-- headline tiny -->\n<!-- end headline -->\n")
    headline(page, study="tiny", results=study / "results", method=["robust_jem", "at_ebm", "dat"])
    rows = [re.sub(" +", " ", line) for line in page.read_text().splitlines() if line.startswith("| ")]
    entry = config.read("params.yaml", "tiny")
    ours, theirs = (f"{gflop_per_image(entry, name, study):.4g}" for name in ("robust_jem", "at_ebm"))
    fid = "2.5 ± 0.05 | 0.01 ± 0.002 | 0.98 | 0.9 | 0.3"
    assert rows[1:4] == [
        f"| robust_jem | combined | 0.99 | 0.86 | 0.78 | {fid} | 0.02 | {ours} | - | - | 1 |",
        f"| at_ebm | ascent | - | - | - | {fid} | - | {theirs} | - | - | 1 |",
        f"| dat | ascent | {'- | ' * 12}not run |",
    ]
    assert rows[5].startswith("| robust_jem | combined |")


def test_a_row_for_each_recipe_with_all_measurements(study):
    page = study / "page.md"
    page.write_text("<!-- recipes tiny -->\n<!-- end recipes -->\n")
    headline(page, study="tiny", results=study / "results", method=["robust_jem", "oe", "dat"])
    rows = [re.sub(" +", " ", line) for line in page.read_text().splitlines() if line.startswith("| ")]
    of_recipe = "2.5 ± 0.05 | 0.01 ± 0.002 | 0.7 | 0.6 | 0.98"
    assert rows[1:] == [
        f"| robust_jem | combined | 0.99 | 0.86 | 0.78 | {of_recipe} | 0.9 | 0.3 | 1 |",
        f"| | sgld | | | | {of_recipe} | | | |",
        f"| oe | - | not run |{' - |' * 10}",
        f"| dat | ascent | not run |{' - |' * 10}",
    ]


def test_numbers_over_seeds_have_deviations_and_divergences():
    entry = config.read("params.yaml", "tiny")
    found = {"robustness/clean": [0.5, 0.7], "train/divergences": [0.0, 4.0, 1.0], "train/seconds": [10.0, 20.0]}
    cells = dict(zip(field.HEADER, field.row(entry, "at", found), strict=True))
    assert (cells["clean"], cells["seconds"]) == ("0.6 ± 0.14", "15 ± 7.1")
    assert (cells["diverged"], cells["seeds"], cells["FID"]) == ("2 of 3", 3, None)


def test_a_report_has_each_number_with_its_interval_and_count(study):
    _, shown = reported(study, "robust_jem")
    lines = [re.sub(" +", " ", line) for line in shown.splitlines()]
    for line in (
        "| none | - | - | - | - | - | 0.9900 [0.980, 1.000] | 500 |",
        "| pgd20 | linf | 0.1 | ce | 20 | 1 | 0.8600 [0.810, 0.910] | 500 |",
        "gradients may be masked: the loss does not rise.",
        "sgld: only 3 of 500 images are distinct.",
        "| l2 | 0.5 | 0.99 | 0.8 | 0.79 | 0.79 | 0.78 | 0.7800 [0.740, 0.820] | 300 |",
        "| sgld | 2.5 ± 0.05 | 3 to 4.5 | 0.01 ± 0.002 | 9.25 ± 0.3 | 0.7 | 0.6 | 0.98 | 500 | 500 | ours |",
        "Protocol ours: 500 images.",
        "| uniform | max_softmax | 0.9000 [0.880, 0.920] | 0.1 | - | - | - | - | - | - | - | - | 400 |",
        "| uniform | energy (own) | 0.9000 [0.880, 0.920] | 0.1 | 0.3000 [0.280, 0.320] | 0.7 "
        "| 0.4000 [0.380, 0.420] | 0.6 | 0.3500 [0.330, 0.370] | 0.4500 [0.430, 0.470] "
        "| 0.3300 [0.310, 0.350] | 0.3200 [0.300, 0.340] | 400 |",
        "uniform, energy: AUC 0.330 after square, 0.350 after ours; gradients may be masked.",
        "On the first 50 of each set: descents, ours; apgd, 100 steps, 5 restarts; square, 9 queries; all, the strongest "
        "of these on each image.",
        "| joint, E(x, y) | 0.4 ± 0.01 | 0.1 ± 0.0025 | exact | 200 |",
        "| 0.99 | 0.97 | 0.0200 [0.010, 0.030] | 500 |",
        "| test images | 500 | 0.5 | 0.7 | 1 | - | - | 0.5 | 0.7 | 1 | - | - | 0.95 | 0.9 | 6 |",
        "| Robust JEM | robust_jem/combined | 9.25 │ 9.28 | 2.5 │ 47.92 | |",
        "| Robust JEM-Energy | robust_jem/sgld | 9.25 │ 8.71 | 2.5 │ 41.17 | |",
    ):
        assert line in lines
    places = [
        shown.index(part)
        for part in ("## Warnings", "may be masked", "only 3 of 500", "as copies would be", "## Accuracy on test images")
    ]
    assert places == sorted(places), "all warnings are in one place"
    curves = study / "models/robust_jem/curves.csv"
    curves.write_text("step,fgsm/accuracy,pgd/accuracy\n-10,0.5,0.4\n10,0.9,0.1\n")  # of its warm start, the first
    _, told = reported(study, "robust_jem")
    first = told.index("training overfitted catastrophically: from step -10 to 10 ")
    assert told.index("## Warnings") < first < told.index("may be masked") and "overfitted" not in shown
    curves.write_text("step\nten\n")
    with pytest.raises(ValueError, match="is not a table of records"):
        reported(study, "robust_jem")
    curves.unlink()
    assert "### RJ Table 1" in shown and "### JT" not in shown and "energy (own)" in shown


def test_what_a_method_lacks_is_a_dash_or_said(study):
    _, shown = reported(study, "at_ebm")
    assert re.search(r"\| none +(\| - +){6}\| 500", shown) and re.search(r"\| joint, E\(x, y\) \|( - +\|){3} 200", shown)
    _, shown = reported(study, "jem")
    assert "IS: not available" in shown and "Protocol jempp-buffer: 500 images." in shown
    for name in ("autoattack", "fisher", "calibration", "landscape", "neighbours", "interpolation"):
        (study / "results/standard" / f"{name}.json").unlink()
    numbers, shown = reported(study, "standard")
    assert "## Fisher" not in shown and numbers["fisher"] == {} and "| - │ 6.97" in shown


def test_dvc_compares_the_same_few_numbers_of_every_method(study):
    expected = {
        "clean": 0.99, "pgd20": 0.86, "fid": 2.5, "fid_se": 0.05, "label_consistency": 0.98, "auc": 0.9, "auc_worst": 0.3,
        "ece": 0.02,
    }  # fmt: skip
    images = dict.fromkeys(("fid", "fid_se", "label_consistency"))
    quality = study / "results/robust_jem/quality.json"
    quality.write_text(quality.read_text().replace("2.5", "7.5", 1))  # of combined, its first recipe
    detection = study / "results/robust_jem/ood.json"
    content = json.loads(detection.read_text())
    content["photographs"]["auc"] = 0.8  # the first set of tiny, here the last of the file
    detection.write_text(json.dumps(dict(reversed(content.items()))))
    for method, other in (
        ("jem", {}),
        ("robust_jem", {"fid": 7.5, "auc": 0.8}),
        ("standard", images),
        ("at_ebm", dict.fromkeys(("clean", "pgd20", "ece"))),
    ):
        _, shown = reported(study, method)
        numbers = json.loads((study / "report.metrics.json").read_text())
        assert numbers == expected | other and list(numbers) == list(expected)
        cells = " | ".join(text(value) for value in numbers.values())
        assert f"| {cells} |" in re.sub(" +", " ", shown)
    assert "auc: against photographs" in shown


def test_the_report_as_json_has_what_each_measurement_wrote(study):
    numbers, _ = reported(study, "jem")
    assert list(numbers) == [name for name, measurement in MEASUREMENTS.items() if not measurement.apart]
    for name, content in numbers.items():
        assert json.loads((study / f"results/jem/{name}.json").read_text()).items() <= content.items(), name


def test_the_page_of_one_method(study):
    _, shown = reported(study, "robust_jem")
    assert shown.endswith(f"pictures on one page: {study}/report.html\n")
    page = (study / "report.html").read_text()
    assert len(checked(page)) == 9 + 2 * 2 and page.count("<table>") > 10
    titles = re.findall(r"^#+ (.*)", shown, re.M)
    assert [title for title in titles if title != "Where to look"] == re.findall(r"<h\d[^>]*>(.*)</h", page)
    assert "samples by combined" in page.lower() and "<b>9.25</b> | <i>9.28</i>" in page


@pytest.mark.parametrize(
    ("name", "content", "missing"),
    [
        ("ood", {"uniform": {"auc": 0.9, "auc_worst": 0.3, "n": 40}}, "uniform.fpr95"),
        ("quality", {"sgld": quality("ours")}, "baselines"),
        ("autoattack", {"n": 5, "linf": {"eps": 0.1}}, "clean"),
        ("robustness", {}, "clean"),
    ],
)
def test_old_and_damaged_measurements_are_asked_for_again(study, name, content, missing):
    (study / "results/jem" / f"{name}.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"{name}.json: {missing} is missing or wrong; run `advebm {name}` again"):
        reported(study, "jem")


def test_the_keys_of_a_comparison_are_there_where_nothing_was_measured(study):
    for name in ("autoattack", "fisher", "calibration"):
        (study / "results/jem" / f"{name}.json").unlink()
    out = study / "comparison.json"
    compared(study, out)
    row = json.loads(out.read_text())["jem/sgld"]
    assert list(row)[4:9] == ["autoattack linf", "autoattack l2", "ece", "jfs", "mfs"] and set(list(row.values())[4:9]) == {
        None
    }


def test_ours_stands_beside_published(study):
    found = {method: measured(study / "results" / method, study / "models" / method, apart=True) for method in RECIPES}
    tables = {table.title: {row[0]: row for row in table.rows} for table in papers("tiny", DATA, found)}
    assert tables["JT Table 1"]["Normal"][1:5] == [
        *("standard", Beside(99.0, 94.39), Beside(25.0, 0.12), Beside(35.0, 0.11))
    ]
    assert tables["JT Table 2"]["JEM"][4:6] == [Beside("0.4; 0.1", 0.33), Beside("0.4; 0.1", 1.44)]
    assert tables["JT Table 3"]["JEM"][2:4] == [Beside(99.0, 92.9), Beside(86.0, 6.11)]
    assert tables["AE Table 2"]["JEM"][2:4] == [Beside(None, 8.76), Beside(2.5, 38.4)]
    assert tables["JT Table 3"]["Glow"][1:3] == [None, Beside(None, 67.6)], "not measured"
    assert tables["AE Table 4"]["AT-EBM"][-3:-1] == [Beside(90.0, 100), Beside(45.0, 100)], "by AE's attack"
    assert tables["AE Table 4"]["robust_jem"][1:4] == ["robust_jem", Beside(None, None), Beside(None, None)]
    assert tables["AE Table 4"]["robust_jem"][-3:-1] == [Beside(90.0, None), Beside(45.0, None)], "not in the paper"
    assert [text(Beside(*cell)) for cell in ((90.0, 100), (None, 3.69), (None, None))] == ["90 │ 100", "- │ 3.69", "-"]
    jem = tables["AE Table 4"]["JEM"]
    assert jem[-3:-1] == [Beside(80.0, 11.8), Beside(20.0, 2.5)], "the row must use the score that the paper names"
    scores = found["jem"].of["scores"].named["uniform"].scores
    numbers = {"norm": "l2", "eps": 1.0, "attack": "apgd, 100 steps, 5 restarts", "n": 64}
    for other in ({"norm": "linf"}, {"eps": 1.5}, {"attack": "apgd, 50 steps, 5 restarts"}):
        scores["max_softmax"].attacks["apgd"] = Attacked(auc=0.2, fpr95=0.9, **numbers | other)
        assert ours(found["jem"], None, "max_softmax")["uniform worst"] is None, "only the same attack is compared"
    assert set(ours(found["jem"], "sgld")) >= {"clean", "robust", "ordinary", "energy", "is", "fid", "jfs", "mfs"}


def test_each_data_set_has_its_own_published_rows():
    def normal(tables):
        return [row[2].published for row in next(table for table in tables if table.title == "JT Table 1").rows]

    for source in ("cifar10", "digits"):
        tables = papers("mine", {**DATA, "source": source}, {})
        assert normal(tables) == [94.39] and len(tables) == 7
    known, table = papers("cifar100", {**DATA, "source": "cifar100"}, {})
    assert known.notes[2] == "Out-distribution sets of cifar100: a, svhn; b, npz:f/val.npz. Outliers in training: uniform."
    assert normal([table]) == [78.54] and "Study cifar100 uses the papers' data." in known.notes[1]
    assert "can be compared with the papers; digits cannot." in papers("digits", DATA, {})[0].notes[1]
    seen = papers("digits", {**DATA, "outliers": "npz:f/train.npz"}, {})[0].notes[2]
    assert seen.endswith(
        "Outliers in training: npz:f/train.npz. Methods trained with outliers have seen images like those of b."
    )
    assert papers("digits", DATA, {}, whole=False)[0].notes == ("The papers' tables do not include this method.",)


def test_the_two_attacks_of_jt_share_a_radius():
    attacks = attack(0.8, "ce"), attack(0.2, "ce", eps=0.2), attack(0.3, "energy", eps=0.2)
    small, wide, energy = (UnderAttack(**numbers) for numbers in attacks)
    assert both_attacks([small, wide, energy]) == (wide, energy)
    assert both_attacks([small, energy]) == (small, None) and both_attacks([energy]) == (None, None)


def test_the_comparison_and_its_page(study):
    out = study / "comparison.json"
    page = compared(study, out)
    assert page.count("Detection by the other scores") == page.count("<td>0.2500 [0.230, 0.270]</td>") // 2 == len(RECIPES)
    rows = json.loads(out.read_text())
    assert list(rows) == [
        *("standard", "jem/sgld", "jem/replay_buffer", "robust_jem/combined", "robust_jem/sgld", "at_ebm/ascent"),
        *("(gaussians)", "(real)"),
    ]
    assert rows["robust_jem/sgld"] == {
        "clean": 0.99, "pgd20": 0.86, "wide": 0.25, "energy": 0.35, "autoattack linf": 0.78, "autoattack l2": 0.78,
        "ece": 0.02, "jfs": 0.4, "mfs": 0.4, "fid": 2.5, "kid": 0.01, "is_mean": 9.25, "precision": 0.7,
        "recall": 0.6, "label_consistency": 0.98, "auc photographs": 0.9, "auc uniform": 0.9,
        "worst photographs": 0.3, "worst uniform": 0.3,
    }  # fmt: skip
    shown = out.with_suffix(".md").read_text()
    assert all(f"### {name}" in shown for name in ("RJ Table 1", "JT Table 1", "JT Table 2", "JT Table 3", "AE Table 4"))

    recipes = sum(map(len, RECIPES.values()))
    assert len(checked(page)) == 2 + 9 * len(RECIPES) + 2 * recipes and (study / "comparison_ood.pdf").is_file()
    lines = [re.sub(" +", " ", line) for line in shown.splitlines()]
    assert (
        "| at_ebm | uniform | energy | 0.3500 [0.330, 0.370] | 0.4500 [0.430, 0.470] | 0.3300 [0.310, 0.350] "
        "| 0.3200 [0.300, 0.340] | 50 |"
    ) in lines
    assert page.count("<table>") > 20 and "<b>9.25</b> | <i>9.28</i>" in page


def test_a_comparison_of_some_methods(study, capsys):
    out = study / "two.json"
    page = compared(study, out, "robust_jem", "at", "standard")
    assert list(json.loads(out.read_text())) == [
        *("robust_jem/combined", "robust_jem/sgld", "standard", "(gaussians)", "(real)"),
    ]
    assert "<h1>tiny: robust_jem, standard</h1>" in page and "method-jem" not in page and ">JEM<" not in page
    assert len(checked(page)) == 2 + 9 * 2 + 2 * 2
    left = "Left out: at, which lacks robustness.json, quality.json, ood.json; `dvc exp run -S study=tiny -S method=NAME` "
    assert capsys.readouterr().out.splitlines()[-2:] == [f"{left}makes it.", f"wrote {out.with_suffix('.html')}"]
    assert len(checked(compared(study, out, "robust_jem"))) == 2 + 9 + 2 * 2
    with pytest.raises(ValueError, match=r"no method 'jen' in tiny \(did you mean jem\?\)"):
        compared(study, out, "jen")
    with pytest.raises(FileNotFoundError, match=r"no method has results but at, which lacks .*; run `dvc exp run -S study"):
        compared(study, out, "at")


def test_a_comparison_leaves_out_what_is_not_whole(study, tmp_path):
    out, results = tmp_path / "comparison.json", study / "results"
    (results / "jem/quality.json").unlink()
    next((results / "robust_jem/samples").glob("sgld.npz")).unlink()
    compared(study, out)
    assert list(json.loads(out.read_text())) == ["standard", "at_ebm/ascent", "(gaussians)", "(real)"]
    note = "Left out: jem, which lacks quality.json; robust_jem, which lacks samples/sgld.npz; `dvc repro -P` makes it."
    assert note in out.with_suffix(".md").read_text()
    for method in RECIPES:
        (results / method / "ood.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no method has results but standard, which lacks ood\.json; jem, "):
        compared(study, out)


def test_the_page_is_small_enough(tmp_path):
    from advebm.reports.page import embedded

    path = tmp_path / "grid.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (400, 500, 3), dtype=np.uint8)).save(path)
    (made,) = embedded({path: "noise", tmp_path / "none.png": "not there"})
    assert made.caption == "noise" and len(made.source) < 0.5 * path.stat().st_size


def test_a_sweep_tells_what_differs_between_its_experiments():
    base = {"study": "a", "seed": 0, "a": {"k": 1, "p": None, "same": [1]}, "b": {"k": 5}}
    params = [base, base | {"seed": 1}, base | {"a": {"k": 2, "p": {"auc": 0.8}, "same": [1]}}]
    found = sweep.varied(params)
    assert found == [{"a.k": 1, "a.p": None}] * 2 + [{"a.k": 2, "a.p": {"auc": 0.8}}]
    assert sweep.split(found) == ("a.k", ["a.p"]) and sweep.split([{}]) == (None, [])
    assert sweep.split([{"method": "at"}, {"method": "jeat"}]) == (None, ["method"])
    assert [sweep.written(entry["a.p"]) for entry in found[1:]] == ["null", "{auc: 0.8}"]
    lines = {"fid": {"sgld": {1: [2.0, 4.0], 2: [5.0]}}, "recall": {"sgld": {1: [0.5, 0.5]}}}
    assert sweep.rows(lines, "a.k") == [[1, "sgld", "3 ± 1.4", "0.5 ± 0", 2], [2, "sgld", 5.0, None, 1]]
    assert sweep.rows(lines, None)[0][0] == "sgld"


def test_a_measurement_that_a_study_leaves_out_is_in_no_report(tmp_path):
    for name in ("fisher", "calibration"):  # without and with a picture
        leave_out(MEASUREMENTS[name], tmp_path / f"{name}.json", "tiny at")
    pictured = {f"calibration.{end}" for end in ("json", "png", "pdf")}
    assert {file.name for file in tmp_path.iterdir()} == {"fisher.json", *pictured}
    assert measured(tmp_path, partial=True).of == {}
