"""What the documentation says of files, tests, times and numbers of this tree."""

import re
from pathlib import Path

import pytest

from advebm import config
from advebm.evaluation import autoattack, features
from advebm.methods import METHODS
from advebm.runtime.parts import BATCH

ROOT = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "REFERENCES.md", "data/README.md")
PAGES = [*map(Path, ROOT), *sorted(Path("docs").rglob("*.md"))]
SCALING, RELIABILITY = (Path("docs", name).read_text() for name in ("scaling.md", "reliability.md"))
TIME = re.compile(r"\b(\d+|an?|few|half|one|two|three|four|five|ten|twenty) (second|minute|hour)s?\b|\b(minutes|hours)\b")


def test_links_lead_to_files_and_headings():
    for page in PAGES:
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", page.read_text()):
            file = page.parent / target if target else page
            assert file.exists(), f"{page}: {target}"
            headings = re.findall(r"^#+ (.+)", file.read_text(), re.M) if anchor else []
            slugs = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
            assert not anchor or anchor in slugs, f"{page}: {target}#{anchor}"


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=str)
def test_a_page_has_each_section_once(page):
    headings = re.findall(r"^#+ (.+)", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S), re.M)
    assert len(headings) == len(set(headings)), headings


def test_every_method_is_in_the_readmes_table():
    rows = re.findall(r"^\| (`.*?) \|", Path("README.md").read_text(), re.M)
    assert set(METHODS) <= set(re.findall(r"`(\w+)`", " ".join(rows)))


def test_pytest_commands_select_a_test():
    for page in PAGES:
        for command in re.findall(r"pytest (?:-|tests/)[^`\n]*", page.read_text()):
            file = re.search(r"tests/[\w/]+\.py", command)
            names = re.findall(r"^def (test_\w+)", Path(file[0] if file else "tests/test_soak.py").read_text(), re.M)
            word = re.search(r"-k (\w+)", command)
            assert any(word is None or word[1] in name for name in names), f"{page}: {command}"


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in ("scaling.md", "CHANGELOG.md")], ids=str)
def test_run_times_stand_in_one_place(page):
    """docs/scaling.md; the README's table of studies has orders of magnitude."""
    text = re.sub(r"^\| study \|.*?\n\n", "", page.read_text(), flags=re.M | re.S)
    assert not TIME.search(text), TIME.search(text)


def test_comments_of_params_name_no_run_times():
    assert not (found := re.search(rf"#.*(?:{TIME.pattern})", Path("params.yaml").read_text())), found


def test_the_sizes_of_parts_are_those_of_the_code():
    text = " ".join(RELIABILITY.split())
    assert f"`state/features`, {features.PART} images a file" in text
    assert f"fixed size, {BATCH} images ({autoattack.CHUNK} for AutoAttack and Fisher scores)" in text


def test_the_estimates_follow_from_the_study():
    """Operations and hours of the rows at 32x32: F of the network, G and T of the method, 280 TFLOP/s."""
    f = {"WRN-16-4": 1.012, "WRN-28-10": 11.9}
    passes = {"jempp": 3, "jem": 3, "robust_jem": 3}
    network, checked = "", 0
    for line in SCALING.splitlines():
        row = re.match(r"\| (WRN-\S+)?.*\| `(\w+)`, (\d+) gradients \| 32 \| ([\d,]+) x (\d+) \| (\S+) \| (\S+) \|", line)
        if not row:
            continue
        network, method, gradients = row[1] or network, row[2], int(row[3])
        images, epochs, gflop, hours = int(row[4].replace(",", "")), *(float(row[i]) for i in (5, 6, 7))
        model = config.model(config.read(Path("params.yaml"), "cifar10"), method)
        assert epochs == model.training.epochs
        attack = getattr(model.method, "attack", None)
        chain = getattr(model.method.sampler, "outer", None) or model.method.sampler.steps
        assert gradients == chain + (attack.steps if attack else 0)
        assert gflop == pytest.approx((2 * gradients + 3 * passes[method]) * f[network], rel=0.01)
        assert hours == pytest.approx(images * epochs * gflop * 1e9 / 280e12 / 3600, rel=0.02)
        checked += 1
    assert checked == 4
