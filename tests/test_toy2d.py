"""AE, Fig. 1."""

from pathlib import Path

from advebm import config
from advebm.toy2d import Toy2d, toy2d


def test_d_is_half_on_the_data_and_a_corner_leaves_spurious_maxima():
    spec = config.build(Toy2d, config.read_toy2d(Path("params.yaml")))
    uniform, corner = (toy2d(spec, spec.out[name], seed=0) for name in ("uniform", "corner"))
    assert uniform["near"] < 0.05 and corner["near"] < 0.05
    middle = len(uniform["end"]["D"]) // 2
    assert (uniform["end"]["D"] == uniform["end"]["D"].max()).nonzero()[0].sub(middle).abs().max() <= 3
    assert uniform["far"] < uniform["end"]["D"][middle, middle] - 0.03
    assert corner["far"] > corner["end"]["D"][middle, middle] + 0.02
