"""Binary adversarial training in two dimensions."""

from advebm import config
from advebm.commands import options as o


def toy2d(out: o.OutFolder, params: o.Params = o.PARAMS, seed: o.Seed = 0, quiet: o.Quiet = False) -> None:
    """Train D on points against each out-distribution (Yin, Li and Rohde 2022, Fig. 1); write toy2d.json and toy2d.png."""
    entry = config.read_toy2d(params)
    import torch

    from advebm import figures
    from advebm.runtime import disk, progress
    from advebm.toy2d import Toy2d, toy2d

    torch.set_num_threads(1)  # a point has two numbers: more threads would only wait
    spec = config.build(Toy2d, entry)
    found = {name: toy2d(spec, spec.out[name], seed=seed) for name in progress.bar("toy2d", quiet)(list(spec.out))}
    numbers = {name: {"near": entry["near"], "far": entry["far"]} for name, entry in found.items()}
    disk.write_json(out / "toy2d.json", numbers)
    figures.landscapes(found, spec.out, spec.deviation, out / "toy2d.png")
    for name, entry in numbers.items():
        print(f"{name}: mean |D - 1/2| {entry['near']:.4f} within 2 deviations, largest D {entry['far']:.4f} beyond 4")
