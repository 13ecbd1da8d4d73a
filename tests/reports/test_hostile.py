"""Files made to do harm: they are refused in a line, before they take time or memory, and write nothing elsewhere."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from advebm import config, networks
from advebm.data import folders, images
from advebm.figures.canvas import save_text
from advebm.networks.flow import Glow
from advebm.networks.wrn import WideResNet
from advebm.reports.tables import Table, document
from advebm.runtime import disk, yaml12

READERS = [disk.read_text, images.digest, folders.pixels, lambda file: disk.read_json(file, "ood")]
SPECIAL = {"pipe": os.mkfifo, "zeros": lambda file: file.symlink_to("/dev/zero"), "folder": Path.mkdir}


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("make", SPECIAL.values(), ids=SPECIAL)
def test_only_regular_files_are_read(tmp_path, read, make):
    make(file := tmp_path / "z.png")
    with pytest.raises(ValueError, match=r"z.png: is not a regular file"):
        read(file)


def test_a_large_text_is_refused(tmp_path):
    with (file := tmp_path / "a.json").open("wb") as stream:
        stream.truncate(disk.TEXT + 1)
    with pytest.raises(ValueError, match=f"a.json: is larger than {disk.TEXT} bytes"):
        disk.read_text(file)


def test_a_picture_of_many_pixels_is_refused(tmp_path):
    Image.new("1", (6000, 6000)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a.png: is not a readable image \(its 36000000 pixels exceed limit of"):
        folders.pixels(tmp_path / "a.png")


@pytest.mark.parametrize("key", ["x", "y"])
def test_an_npz_that_unpacks_to_much_is_refused(tmp_path, monkeypatch, key):
    monkeypatch.setattr(images, "BYTES", 10**5)
    arrays = {"x": np.zeros((2, 4, 4), np.uint8)} | {key: np.zeros((1000, 20, 20), np.uint8)}
    np.savez_compressed(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=rf"a.npz: .* \({key}.npy of \(1000, 20, 20\) uint8 would take more"):
        images.load(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("real", "outputs", "said"),
    [
        (WideResNet(depth=10, width=1), 10, {"depth": 10**9}),
        (WideResNet(depth=10, width=1), 10, {"width": 100}),
        (WideResNet(depth=10, width=1), 10, {"outputs": 10**9}),
        (WideResNet(depth=10, width=1), 10, {"shape": [1, 10**9, 8]}),
        (WideResNet(depth=10, width=1), 10, {"shape": 8}),
        (Glow(kind="glow", levels=1, blocks=1, hidden=4), 1, {"blocks": 10**9}),
        (Glow(kind="glow", levels=1, blocks=1, hidden=4), 1, {"hidden": 10**6}),
    ],
)
def test_a_model_larger_than_its_file_is_refused(tmp_path, monkeypatch, real, outputs, said):
    networks.save(file := tmp_path / "model.safetensors", net := real.build((1, 8, 8), outputs))
    assert isinstance(networks.load(file)[0], type(net))
    monkeypatch.setattr(type(real), "build", lambda *_: pytest.fail("it must not be built"))
    header = networks.header(file)
    header |= {key: value for key, value in said.items() if key in header}
    header["network"] |= {key: value for key, value in said.items() if key not in header}
    state = {name: tensor.contiguous() for name, tensor in net.state_dict().items()}
    save_file(state, file, {"advebm": json.dumps(header)})
    with pytest.raises(ValueError, match=r"model.safetensors: is not a readable advebm model"):
        networks.load(file)


@pytest.mark.parametrize("text", ["[" * 100_000, "{a: " * 100_000, "- " * 100_000, "? " * 1000])
def test_yaml_of_great_depth_is_refused(text):
    with pytest.raises(yaml12.YAMLError, match="more than 50 parts inside each other"):
        yaml12.load(text)


LAUGHS = "a0: &a0 [1, 2]\n" + "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9))
MERGED = "a0: &a0 {x: 1}\n" + "\n".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}" for i in range(1, 9))


@pytest.mark.parametrize("text", [LAUGHS, MERGED, "a: &a [*a]", "a: &a {b: *a}"], ids=["laughs", "merged", "list", "map"])
def test_yaml_whose_aliases_multiply_is_refused(text):
    with pytest.raises(yaml12.YAMLError, match="more than 100000 parts, or one inside itself"):
        yaml12.load(text)
    assert yaml12.load("a: &a {x: 1}\nb: *a\nc: {<<: *a, y: 2}") == {"a": {"x": 1}, "b": {"x": 1}, "c": {"x": 1, "y": 2}}


@pytest.mark.parametrize("name", ["../../x", "/tmp/x", "a/b", "..", "a b", "<script>"])
def test_a_study_is_no_path(name):
    content = config.read_yaml(Path("params.yaml")) | {name: {"like": "tiny"}}
    with pytest.raises(ValueError, match="must consist of letters, digits, - and _"):
        config.effective(content, name)


def test_markdown_has_no_html_and_a_cell_is_one_cell():
    told = document("<script>1", [Table("<b>", ["<i>"], [["a|b\n\n# c <script>"]], ("<script>2",))])
    assert "<" not in told and told.count("&lt;script>") == 3 and "| a\\|b  # c &lt;script> |" in told


FAILURES = ["OSError(28, 'No space left on device')", "SafetensorError('No space left')", "MemoryError"]


@pytest.mark.parametrize("error", FAILURES)
def test_what_the_machine_lacks_is_one_line(error):
    """And what standard output cannot show is no reason to fail."""
    script = (
        "from safetensors import SafetensorError\nfrom advebm import cli\n"
        f"def app(**_):\n    print('1 \u2502 2')\n    raise {error}\ncli.run(app, 'train')\n"
    )
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONPATH": "pkg"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert done.returncode == 1 and done.stdout == "1 ? 2\n", done.stderr
    assert done.stderr.startswith("advebm: ") and done.stderr.count("\n") == 1


CURVES = ["step,a\n1,high\n", "a,b\n1,2\n", "step,a\n1,2,3\n", f"step,a\n1,{'x' * 200_000}\n", "step\ninf\n"]


@pytest.mark.parametrize("content", CURVES, ids=["words", "no steps", "more", "long", "infinite"])
def test_records_of_another_training_that_are_not(tmp_path, content):
    from advebm.commands.train import _before

    model, curves = tmp_path / "model.safetensors", tmp_path / "curves.csv"
    curves.write_text(content)
    networks.save(model, WideResNet(depth=10, width=1).build((1, 8, 8), 10))
    with pytest.raises(ValueError, match=r"curves.csv: is not a table of records"):
        _before(model)
    networks.save(model, WideResNet(depth=10, width=1).build((1, 8, 8), 10), beside={curves.name: "0" * 64})
    with pytest.raises(ValueError, match=r"curves.csv: is not the file that was written with"):
        _before(model)


@pytest.mark.parametrize("suffix", [".pdf", ".png"])
def test_a_picture_on_a_full_disk_is_an_error_of_the_disk(tmp_path, suffix):
    """Matplotlib's own writing of a PDF file ended in an AttributeError."""
    (tmp_path / f"a{suffix}").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device"):
        save_text("not measured", tmp_path / "a.png", "a study")
