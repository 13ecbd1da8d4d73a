"""The pages of reports and of a training: readable on a phone and in the dark, whole without a network."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from advebm.figures.live import live
from advebm.reports.page import TEMPLATE
from test_tables import checked, compared, picture, reported, study

__all__ = ["study"]  # the fixture
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
WIDTHS = (360, 1280)  # a phone and a desktop, in CSS pixels
MEASURE = """
<script>
function contrast(a, b) {
  const l = c => c.match(/[0-9.]+/g).slice(0, 3).map(v => v / 255)
    .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((s, v, i) => s + v * [.2126, .7152, .0722][i], 0);
  const [dark, light] = [l(a), l(b)].sort((x, y) => x - y);
  return (light + .05) / (dark + .05);
}
function measured(frame) {
  const page = frame.contentDocument, root = page.documentElement, faint = [], texts = page.createTreeWalker(page.body, 4);
  const behind = e => !e ? "255,255,255" : /, 0\\)$/.test(frame.contentWindow.getComputedStyle(e).backgroundColor)
    ? behind(e.parentElement) : frame.contentWindow.getComputedStyle(e).backgroundColor;
  while (texts.nextNode()) {
    const e = texts.currentNode.parentElement, ratio = contrast(frame.contentWindow.getComputedStyle(e).color, behind(e));
    if (texts.currentNode.data.trim() && ratio < 4.5) faint.push(texts.currentNode.data);
  }
  const images = [...page.images], panels = page.querySelector(".panels img");
  return {over: root.scrollWidth - root.clientWidth, images: images.length, faint, texts: page.body.innerText.length,
    missing: images.filter(i => !i.naturalWidth).length, behind: behind(page.body), panels: panels && panels.width,
    distorted: images.filter(i => Math.abs(i.width / i.height / i.naturalWidth * i.naturalHeight - 1) > .05).length};
}
onload = () => document.body.innerHTML = JSON.stringify([...document.querySelectorAll("iframe")].map(measured));
</script>"""


def training(folder, *, last):
    """live.html of a training with pictures of two records."""
    grids = [f"grids/{kind}_{step}" for kind in ("adversarial", "replay_buffer") for step in (999_995, 1_000_000)]
    for name in ("curves", *grids):
        picture(folder / f"{name}.png")
    record = {"step": 1_000_000, "train/ce": 2.25, "train/energy_gap": -0.5, "delta_x/marginal": 1e-4}
    record |= {"validation/accuracy": 0.9}
    live(folder, "tiny <robust_jem>", record, last=last)
    return (folder / "live.html").read_text()


@pytest.fixture
def pages(study):
    wide = np.random.default_rng(0).integers(0, 256, (400, 1100, 3), dtype=np.uint8)
    Image.fromarray(wide).save(study / "models/robust_jem/curves.png")
    reported(study, "robust_jem")
    compared(study, study / "comparison.json")
    training(study, last=False)
    return study


@pytest.mark.skipif(CHROMIUM is None, reason="the pages are measured in chromium, which is not installed")
@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_pages_as_chromium_shows_them(pages, scheme):
    names = ("report.html", "comparison.html", "live.html")
    frames = [
        f'<iframe style="width: {width}px; height: 800px" srcdoc="{html.escape((pages / name).read_text())}"></iframe>'
        for name in names
        for width in WIDTHS
    ]
    (pages / "measure.html").write_text("<!DOCTYPE html><body>" + "".join(frames) + MEASURE)
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={pages / 'profile'}", "--dump-dom"]
    options += [f"--blink-settings=preferredColorScheme={('dark', 'light').index(scheme)}", "--virtual-time-budget=5000"]
    done = subprocess.run(
        [CHROMIUM, *options, (pages / "measure.html").as_uri()], capture_output=True, text=True, timeout=120
    )
    found = json.loads(html.unescape(re.search(r"<body>(\[.*\])</body>", done.stdout, re.S)[1]))
    assert len(found) == len(names) * len(WIDTHS)
    for i, page in enumerate(found):
        what = f"{names[i // len(WIDTHS)]} at {WIDTHS[i % len(WIDTHS)]}, {scheme}: {page}"
        assert page["over"] == 0 and page["missing"] == 0 and page["distorted"] == 0 and not page["faint"], what
        assert page["images"] > 2 and page["texts"] > 100, what
        assert page["behind"] == {"dark": "rgb(22, 24, 27)", "light": "rgb(255, 255, 255)"}[scheme], what
    assert found[0]["panels"] == 44 * 16, "panels stay legible on a phone"


def luminance(colour):
    parts = (int(colour[i] * 2 if len(colour) == 3 else colour[2 * i : 2 * i + 2], 16) / 255 for i in range(3))
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return np.dot(linear, (0.2126, 0.7152, 0.0722))


def test_every_text_has_contrast_in_both_schemes(tmp_path):
    """At least 4.5, as WCAG 2.1 asks (1.4.3), by the colours of the style sheets."""
    for page in (TEMPLATE.read_text(), training(tmp_path, last=True)):
        palettes = [
            dict(re.findall(r"--(\w+): #(\w+)", block)) for block in re.findall(r":root \{[^}]*--page[^}]*\}", page)
        ]
        assert len(palettes) == 2 and palettes[0].keys() == palettes[1].keys() >= {"page", "text", "soft"}
        for palette in palettes:
            for name in palette.keys() - {"page", "line"}:
                light, dark = sorted((luminance(palette[name]), luminance(palette["page"])), reverse=True)
                assert (light + 0.05) / (dark + 0.05) >= 4.5, (name, palette)


def test_the_page_of_a_training(tmp_path):
    page = training(tmp_path, last=False)
    sources = re.findall(r'src="([^"]*)"', page)
    assert sources == ["curves.png", "grids/adversarial_1000000.png", "grids/replay_buffer_1000000.png"]
    assert '<meta http-equiv="refresh" content="10">' in page and "tiny &lt;robust_jem&gt;" in page
    assert all((tmp_path / source).is_file() for source in sources) and "Step 1,000,000. Means" in page
    assert "<dt>change of the marginal energy, E(x), by the attack</dt><dd>0.0001</dd>" in page
    ended = training(tmp_path, last=True)
    assert "refresh" not in ended and "Training is complete." in ended
    for whole in (page, ended):
        assert "http" not in whole.replace("http-equiv", "") and "<script" not in whole and "url(" not in whole


def test_the_report_has_the_last_pictures_of_training(study):
    for step in (5, 10):
        picture(study / f"models/robust_jem/grids/negatives_{step:06d}.png")
    reported(study, "robust_jem")
    page = (study / "report.html").read_text()
    assert len(checked(page)) == 10 + 2 * 2 and page.count("Training, last record: negatives.</figcaption>") == 1
    assert Path(study / "models/robust_jem/grids/negatives_000005.png").exists()
