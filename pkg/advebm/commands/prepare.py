"""Data sets and out-distribution sets, as the later stages read them."""

from advebm import config
from advebm.commands import options as o
from advebm.ranges import LEAST, TARGETED
from advebm.runtime import project

SPLIT_SEED = 0  # the split is fixed: seeds vary training, never the data


def prepare(
    out: o.OutFolder,
    study: o.Study = "digits",
    params: o.Params = o.PARAMS,
    root: o.Root = None,
    quiet: o.Quiet = False,
) -> None:
    """Write train, validation and test images, and the out-distribution sets, as .npz files."""
    entry = config.read(params, study)
    spec = config.build(config.Data, entry["data"])
    import numpy as np
    from sklearn.model_selection import train_test_split

    from advebm.data import attributes, images, sources
    from advebm.runtime import disk, progress
    from advebm.samplers.applications import unknown

    root = project.data_root(root)
    splits = sources.labelled(spec.source, root, spec.size)

    def halves(whole: images.Images, held_out: int, name: str) -> tuple[images.Images, images.Images]:
        classes = len(np.unique(whole.labels()))
        if not classes <= held_out <= len(whole.x) - classes:
            raise ValueError(
                f"{study}.data.{name}: {held_out} of {len(whole.x)} images cannot be held out of {classes} classes"
            )
        kept, held = train_test_split(
            np.arange(len(whole.x)), test_size=held_out, stratify=whole.labels(), random_state=SPLIT_SEED
        )
        return whole[kept], whole[held]

    if "all" in splits:
        if spec.test is None:
            raise ValueError(f"{study}.data.test: {spec.source} has no test split; say how many images to hold out")
        splits["train"], splits["test"] = halves(splits["all"], spec.test, "test")
    elif spec.test is not None:
        raise ValueError(f"{study}.data.test: {spec.source} has a test split of its own; write null")
    if "train" not in splits or "test" not in splits:
        raise ValueError(f"{study}.data.source: {spec.source} has only a {', '.join(splits)} split")
    train, validation = halves(splits["train"], spec.validation, "validation")
    sets, edges = {"train": train, "validation": validation, "test": splits["test"]}, attributes.thirds(train)
    if spec.labels == "ink":  # after the split by class: that of a study of classes and that of its ink are the same
        sets = {name: attributes.by_ink(content, edges) for name, content in sets.items()}

    present = np.unique(sets["train"].labels())
    if not np.array_equal(present, np.arange(len(present))):
        shown = ", ".join(map(str, present[:5])) + (", ..." if len(present) > 5 else "")
        raise ValueError(f"{study}.data.source: labels must be 0 to K - 1, each with images; {spec.source} has {shown}")
    if (strange := sets["test"].labels().max().item()) >= len(present):
        raise ValueError(f"{study}.data.source: a test image has label {strange}, which no training image has")
    if len(present) < TARGETED and entry["autoattack"] is not None:
        print(f"note: {len(present)} classes; AutoAttack's targeted loss needs {TARGETED}, so it will have no numbers")
    for expression in (entry["applications"] or {}).get("compositions", []):
        if (word := unknown(expression, len(present))) is not None:
            key, last = f"{study}.applications.compositions", len(present) - 1
            raise ValueError(f"{key}: {expression!r} has {word}; classes are 0 to {last}")
    sets["outliers"] = sources.outside(spec.outliers, root, sets, "train", len(train.x), SPLIT_SEED, spec.size)
    for i, (name, source) in enumerate(spec.out.items()):
        sets[f"out/{name}"] = sources.outside(source, root, sets, "test", spec.out_size, SPLIT_SEED + 1 + i, spec.size)
        shared = {x.tobytes() for x in sets["outliers"].x} & {x.tobytes() for x in sets[f"out/{name}"].x}
        if shared:
            raise ValueError(
                f"{study}.data.out.{name}: {len(shared)} of its images are among the outliers of training, "
                f"{spec.outliers}; take another source for one of them"
            )
    for name, content in sets.items():
        least = 2 if name.startswith("out/") else LEAST
        if len(content.x) < least:
            raise ValueError(f"{study}.data: {name} has {len(content.x)} images; measurements need at least {least}")
    for patterns in (["about.json"], [*(f"{name}.npz" for name in sets if "/" not in name), "out/*.npz"]):
        disk.clear(out, *patterns)  # first the description: without it no stage reads the rest
    for name in progress.bar(f"prepare {study}", quiet)(sets):
        images.save(out / f"{name}.npz", sets[name])
    about = {
        "source": spec.source,
        "shape": [train.x.shape[3], *train.x.shape[1:3]],
        "classes": len(present),
        "images": {name: len(content.x) for name, content in sets.items()},
        "out": {"outliers": spec.outliers, **spec.out},
        "sha256": images.digest_arrays(sets.items()),
    } | ({"ink": edges} if spec.labels == "ink" else {})
    disk.write_json(out / "about.json", about, sealed=True)
    print(f"wrote {out}: " + ", ".join(f"{n} {name}" for name, n in about["images"].items()))
