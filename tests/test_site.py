"""The documentation as a site: its pages, the commands of the tutorial, and that it needs no network."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from advebm import cli, methods
from advebm.evaluation import MEASUREMENTS

TUTORIAL = Path("docs/tutorial.md").read_text()


def sections(page):
    """{heading: text} of a page's second level."""
    parts = re.split(r"^## (.+)\n", Path(page).read_text(), flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_method_has_its_equation_its_source_and_a_picture():
    found = sections("docs/methods.md")
    assert list(found) == list(methods.METHODS)
    for name, text in found.items():
        assert "$$" in text and "Setting: " in text and re.search(r"^!\[.*\]\(pictures/\w+\.png\)", text, re.M), name
        cited = re.search(r"(\w+) (?:et al\. )?(?:and \w+ )?(\d{4})[,.]", text) if name != "standard" else None
        assert name == "standard" or cited, name


def test_every_measurement_says_how_it_is_checked():
    found = sections("docs/measurements.md")
    assert set(found) == set(MEASUREMENTS)
    for name, text in found.items():
        files = re.findall(r"`(tests/\w+\.py)`", text[text.index("Checked:") :])
        assert any(re.search(rf"\b{name}\b", Path(file).read_text()) for file in files), name


def test_the_picture_of_the_pipeline_has_its_stages():
    files = (Path("dvc.yaml"), *Path("stages").rglob("dvc.yaml"))
    stages = {name for file in files for name in yaml.safe_load(file.read_text())["stages"]}
    drawn = re.findall(r">(\w+)</text>", Path("docs/pictures/pipeline.svg").read_text())
    assert sorted(drawn) == sorted(stages - {"toy2d"})


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A clone's folder with images of two classes, where the tutorial looks for them."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for shape, high in (("circle", 128), ("square", 256)):
        for i in range(60):
            for folder, size in (("data/raw/shapes", 16), ("photos", 16 + i % 3)):
                file = Path(folder, shape, f"{i}.png")
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, high, (size, size, 3), dtype=np.uint8)).save(file)


@pytest.mark.parametrize("source", ["folder:shapes", "npz:shapes.npz"])
def test_the_tutorials_way_to_own_data(photos, monkeypatch, source):
    """Its study is prepared as it stands; with the numbers of `tiny`, each of its commands is run as it is printed."""
    params = Path(__file__).parents[1].joinpath("params.yaml").read_text()
    (study,) = re.findall(r"```yaml\n(.*?)```", TUTORIAL, re.S)
    study = study.replace("folder:shapes", source)
    (script,) = re.findall(r"```python\n(.*?)```", TUTORIAL, re.S)
    exec(script, {})
    Path("params.yaml").write_text(f"{params}\n{study}")
    monkeypatch.setattr(sys, "argv", ["advebm", "prepare", "--study", "mine", "--out", "data/whole"])
    cli.main()
    Path("params.yaml").write_text(f"{params}\n{study.replace('like: digits', 'like: tiny')}")
    commands = re.findall(r"^    advebm (.*)", TUTORIAL[TUTORIAL.index("## Your own images") :], re.M)
    assert [command.split()[0] for command in commands] == ["info", "prepare", "gaussians", "train", "sample", "score"]
    for command in commands if source.startswith("folder") else commands[:2]:
        monkeypatch.setattr(sys, "argv", ["advebm", *command.split()])
        cli.main()
    with np.load("data/mine/test.npz") as test:
        assert test["x"].shape == (30, 16, 16, 3) and set(test["y"]) == {0, 1}
    if source.startswith("folder"):
        assert len(Path("scores.csv").read_text().splitlines()) == 121
        assert "Training is complete" in Path("models/mine/robust_jem/live.html").read_text()


def test_the_site_is_built_without_a_warning_and_needs_no_network(tmp_path):
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, env={"NO_MKDOCS_2_WARNING": "1", "PATH": "/usr/bin:/bin"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {file.relative_to(tmp_path).as_posix(): file.read_text() for file in tmp_path.rglob("*.html")}
    assert {"index.html", "docs/tutorial.html", "examples/use_a_model.html", "data/index.html"} <= pages.keys()
    for name, page in pages.items():
        tags = re.findall(
            r"<(?:script|img|iframe|source)\b[^>]*>|<link\b[^>]*rel=\"?(?:stylesheet|preconnect|icon)[^>]*>", page
        )
        assert not any(re.search(r"(?:src|href)=\"?(?:https?:)?//", tag) for tag in tags), name
        formulas = re.findall(r"<math.*?</math>", page, re.S)
        assert not any("\\" in formula for formula in formulas) and "arithmatex" not in page, name
    assert len(re.findall("<math", pages["docs/methods.html"])) > 20
    reference = pages["docs/reference.html"]
    for module in (*(f"methods.{name}" for name in methods.METHODS), *(f"evaluation.{name}" for name in MEASUREMENTS)):
        assert f'id="advebm.{module}"' in reference, module
    assert "x* is x_out after" in re.sub("<[^>]*>", "", reference), "x* is no emphasis"
