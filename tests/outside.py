"""The examples of docs/compare.md with RobustBench and OpenOOD: `python tests/outside.py LIBRARY FOLDER`, in an environment
that has the library. The network is hardly trained; what counts is that both sides measure the same."""

import os
import re
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import advebm
from advebm import networks, vision
from advebm.data.images import Images
from advebm.evaluation.autoattack import AutoAttack, autoattack
from advebm.evaluation.ood import auc
from advebm.networks.wrn import WideResNet

PAGE = Path("docs/compare.md").read_text()
FILE = "models/cifar10/robust_jem/model.safetensors"


def saved(folder, outputs, train=None):
    """A model file for CIFAR-10; of its network the last layer alone is fitted, to the training images given."""
    torch.manual_seed(0)
    net = WideResNet(depth=10, width=1).build((3, 32, 32), outputs)
    if train is not None:
        z = torch.cat([net.features(train.pixels()), torch.ones(len(train.x), 1)], 1).detach()
        fitted = torch.linalg.lstsq(z, torch.eye(10)[train.labels()]).solution.T
        net.head.weight.data, net.head.bias.data = 10 * fitted[:, :-1], 10 * fitted[:, -1]
    (folder / FILE).parent.mkdir(parents=True, exist_ok=True)
    about = {"classes": 10, "detector": "energy", "threshold": 0.0, "recipes": {}, "precision": "fp32"}
    networks.save(folder / FILE, net, **about, study="cifar10", method="robust_jem")
    return advebm.load(folder / FILE, device="cpu")


def example(heading):
    [code] = re.findall(r"```python\n(.*?)```", PAGE.partition(f"## {heading}")[2].partition("\n## ")[0], re.S)
    names = {"advebm": advebm}
    exec(code.replace("8 / 255", "1 / 255"), names)  # the network is not robust
    return names


def robustbench(folder):
    """Clean and robust accuracy on real CIFAR-10, found under ADVEBM_DATA, are ours; the zoo has the network."""
    root = Path(os.environ["ADVEBM_DATA"]).absolute()
    splits = [vision.datasets.CIFAR10(root, train=part) for part in (True, False)]
    train, test = (Images(split.data[:2000], np.array(split.targets[:2000])) for split in splits)
    model = saved(folder, 10, train)
    os.chdir(folder)
    Path("data").mkdir()
    Path("data/raw").symlink_to(root)
    found = example("RobustBench")
    ours = autoattack(model.net, test, AutoAttack(n=20, eps={"linf": 1 / 255}), seed=0).balls["linf"]
    assert found["accuracy"] == ours.left["clean"] and abs(found["robust"] - ours.accuracy) <= 0.05
    x = test[:5].pixels()
    assert torch.equal(found["net"](x), model.net(x))
    saved(Path(), 1)
    try:
        found["load_model"]("Ours2026Robust", dataset="cifar10", threat_model="Linf")
    except ValueError as error:
        assert "has 1 outputs, but cifar10 has 10 classes" in str(error)
    else:
        raise AssertionError("a model without classes must be refused")
    print(f"RobustBench: clean {found['accuracy']:.2f}, robust {found['robust']:.2f}; ours {ours.accuracy:.2f}")


def openood(folder):
    """The evaluator's AUC of each set is ours. Its data sets are folders of random images here; it needs no GPU here."""
    torch.Tensor.cuda = lambda self, *_: self
    model = saved(folder, 10)
    os.chdir(folder)
    rng = np.random.default_rng(0)
    from openood.evaluation_api.datasets import DATA_INFO, benchmarks_dict

    info = DATA_INFO["cifar10"]
    lists = [*info["id"].values(), *(info["csid"][name] for name in info["csid"]["datasets"]), info["ood"]["val"]]
    lists += [info["ood"][part][name] for part in ("near", "far") for name in info["ood"][part]["datasets"]]
    for name in benchmarks_dict["cifar10"]:
        place = Path("data/openood/images_classic", name)
        place.mkdir(parents=True)
        for i in range(12):
            low = rng.integers(0, 128)
            Image.fromarray(rng.integers(low, low + 128, (32, 32, 3), dtype=np.uint8)).save(place / f"{i}.png")
    sets = {}
    for part in lists:
        file = Path("data/openood", part["imglist_path"])
        file.parent.mkdir(parents=True, exist_ok=True)
        name = file.stem.partition("_")[2]
        name = name if name in benchmarks_dict["cifar10"] else "cifar10"
        sets[name] = np.stack([np.asarray(Image.open(f"data/openood/images_classic/{name}/{i}.png")) for i in range(12)])
        y = (model.classify(sets[name]).y + torch.arange(12) // 9) % 10  # the last three are wrong
        file.write_text("".join(f"{name}/{i}.png {y[i]}\n" for i in range(12)))
    found = example("Detection: OpenOOD")["found"]
    scores = {name: model.score(x).double().numpy() for name, x in sets.items()}
    for name in [*info["ood"]["near"]["datasets"], *info["ood"]["far"]["datasets"]]:
        assert abs(found.loc[name, "AUROC"] / 100 - auc(scores["cifar10"], scores[name])) < 1e-6, name
    assert abs(found.loc["farood", "ACC"] - 75) < 1e-6
    print(found)


if __name__ == "__main__":
    {"robustbench": robustbench, "openood": openood}[sys.argv[1]](Path(sys.argv[2]))
