"""Any content of a params file or an image file is either read or rejected with a one-line error."""

import copy
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from advebm import config
from advebm.data import images as im

PARAMS = yaml.safe_load(Path("params.yaml").read_text())
EFFECTIVE = {"tiny": config.read(Path("params.yaml"), "tiny")}
SHARED = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def paths(entry, above=()):
    """The path to every key of the study, as a tuple of keys."""
    for key, value in entry.items():
        yield (*above, key)
        if isinstance(value, dict):
            yield from paths(value, (*above, key))


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
)


@SHARED
@given(
    place=st.sampled_from([(whole, path) for whole in (PARAMS, EFFECTIVE) for path in paths(whole["tiny"])]), value=values
)
@example(place=(EFFECTIVE, ("models",)), value={})
@example(place=(PARAMS, ("recipes", "targeted")), value=[])
@example(place=(PARAMS, ("recipes", "targeted")), value={"kind": 1})
def test_a_value_anywhere_is_taken_or_told(tmp_path, place, value):
    whole, path = place
    content = copy.deepcopy(whole)
    target = content["tiny"]
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(content))
    try:
        entry = config.read(file, "tiny", "at")
        config.model(entry, "at")
    except ValueError as error:
        assert str(error) and "Traceback" not in str(error)
        if str(error).startswith(str(file)):
            assert f"{file}: tiny" in str(error)


@SHARED
@given(content=st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_params_file_is_told(tmp_path, content):
    file = tmp_path / "params.yaml"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"params.yaml: (is not YAML|holds no studies)|no study 'tiny'"):
        config.read(file, "tiny")


@SHARED
@given(x=arrays(np.uint8, array_shapes(min_dims=3, max_dims=3, max_side=9)), colour=st.booleans(), labels=st.booleans())
def test_images_are_read_as_they_were_written(tmp_path, x, colour, labels):
    x = np.stack([x, 255 - x, x // 2], -1) if colour else x[..., None]
    y = np.arange(len(x)) % 3 if labels else None
    im.save(tmp_path / "a.npz", im.Images(x, y))
    read = im.load(tmp_path / "a.npz")
    assert np.array_equal(read.x, x) and (read.y is None if y is None else np.array_equal(read.y, y))
    assert np.array_equal(im.to_bytes(read.pixels()), x)


@SHARED
@given(x=arrays(st.sampled_from(["u1", "i4", "f4", "?", "U1"]), array_shapes(min_dims=0, max_dims=5, max_side=4)))
def test_arrays_that_are_no_images_are_told(tmp_path, x):
    np.savez(tmp_path / "a.npz", x=x)
    try:
        read = im.load(tmp_path / "a.npz")
    except ValueError as error:
        assert str(error).startswith(f"{tmp_path / 'a.npz'}: x must be uint8")
    else:
        assert read.x.dtype == np.uint8 and read.x.ndim == 4 and read.x.shape[3] in (1, 3)


@settings(SHARED, max_examples=200)
@given(data=st.data())
def test_damage_anywhere_in_an_npz_is_told(tmp_path, images, data):
    im.save(tmp_path / "a.npz", images)
    content = (tmp_path / "a.npz").read_bytes()
    damaged = bytearray(content[: data.draw(st.just(len(content)) | st.integers(1, len(content)))])
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    (tmp_path / "a.npz").write_bytes(damaged)
    try:
        read = im.load(tmp_path / "a.npz")
    except ValueError as error:
        assert str(error).startswith(str(tmp_path / "a.npz"))
    else:  # damage to timestamps and the like leaves the arrays intact
        assert np.array_equal(read.x, images.x) and (read.y is None or np.array_equal(read.y, images.y))


@SHARED
@given(content=st.binary(max_size=300))
def test_any_bytes_are_no_npz(tmp_path, content):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"a.npz: is not a readable .npz file .* it may be damaged"):
        im.load(tmp_path / "a.npz")
