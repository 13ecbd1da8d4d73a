"""FID, KID, precision and recall of anybody's images."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from advebm.commands import options as o

A_SET = "folder of images, .npz with x uint8 (N, H, W, C), or kept statistics"


def fid(
    a: Annotated[Path, Argument(metavar="A", help=A_SET)],
    b: Annotated[Path, Argument(metavar="B", help="the reference, of the same kinds")],
    judge: Annotated[Path | None, Option(help="model whose features are compared (.safetensors)")] = None,
    inception: Annotated[bool, Option("--inception", help="compare features of Inception, as published FIDs do")] = False,
    root: o.Root = None,
    keep: Annotated[Path | None, Option(help=".npz file to write the statistics of B to, for later use")] = None,
    out: Annotated[Path | None, Option(help="JSON file to write")] = None,
    quiet: o.Quiet = False,
) -> None:
    """Compare two sets of images: FID and KID with their standard errors, precision and recall, by features of a judge or
    of Inception. Statistics are what --keep wrote, or mu and sigma of another program, which have an FID alone."""
    if (judge is None) is not inception:
        raise ValueError("give either --judge MODEL or --inception, whose features are to be compared")
    from advebm import networks
    from advebm.data import given
    from advebm.data.images import Images
    from advebm.evaluation import features, quality
    from advebm.evaluation.statistics import Statistics, between
    from advebm.reports.tables import about, table
    from advebm.runtime import disk, progress, project

    net = None if judge is None else networks.load(judge, networks.device())[0]
    if isinstance(net, networks.Flow):
        raise ValueError(f"{judge}: is a flow, which has no features; take a classifier")
    spec = features.Features(features="inception" if net is None else "judge")
    shape = (3, None, None) if net is None else net.shape
    root = project.data_root(root)
    using = features.network(spec, net, shape[0], root, bar=lambda name: progress.bar(f"features of {name}", quiet))

    def images(place: Path) -> Images:
        found, _ = given.read(place)
        quality.enough({str(place): found})
        height, width, channels = found.x.shape[1:]
        if net is not None and ((height, width) != shape[1:] or channels not in (1, shape[0])):
            raise ValueError(f"{place}: holds images {[channels, height, width]}, but {judge} is for {[*shape]}")
        return found

    sets = [Statistics.load(place, using) or images(place) for place in (a, b)]  # report mistakes before computing
    if keep is not None and isinstance(sets[1], Statistics) and sets[1].z is None:
        raise ValueError(f"--keep {keep}: {b} has no features to keep, only mu and sigma")
    ours, reference = (
        Statistics.of(one, using, str(place)) if isinstance(one, Images) else one
        for place, one in zip((a, b), sets, strict=True)
    )
    found = between(ours, reference, using)
    if keep is not None:
        reference.save(keep, using)
    if out is not None:
        disk.write_json(out, found.json())
    numbers = [about(found.fid, found.fid_se), about(found.kid, found.kid_se), found.precision, found.recall]
    header = ["", "reference", "FID", "KID", "precision", "recall", "n", "reference n"]
    print("\n".join(table(header, [[str(a), str(b), *numbers, found.n, found.reference_n]])))
