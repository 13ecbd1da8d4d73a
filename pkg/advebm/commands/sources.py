"""What the data sets of a study are made of."""

from advebm import config
from advebm.commands import options as o


def sources(
    out: o.OutFile,
    study: o.Study = "digits",
    params: o.Params = o.PARAMS,
    root: o.Root = None,
) -> None:
    """Write the digest of each source of files that the study's data are read from, npz:FILE and folder:DIR. The others are
    part of a package, or have published digests, which `prepare` checks."""
    entry = config.read(params, study)
    spec = config.build(config.Data, entry["data"])
    from advebm.data.sources import digest
    from advebm.runtime import disk, project

    names = dict.fromkeys((spec.source, spec.outliers, *spec.out.values()))
    found = {name: digest(name, project.data_root(root)) for name in names}
    disk.write_json(out, {name: value for name, value in found.items() if value})
