"""The class Gaussians."""

from advebm import config
from advebm.commands import options as o


def gaussians(
    data: o.Prepared, out: o.OutFile, study: o.Study = "digits", params: o.Params = o.PARAMS, quiet: o.Quiet = False
) -> None:
    """Fit a Gaussian to the training images of each class."""
    spec = config.build(config.Gaussian, config.read(params, study)["gaussians"])
    from advebm.data.gaussians import Gaussians
    from advebm.data.prepared import load
    from advebm.runtime import progress

    fitted = Gaussians.fit(load(data, "train"), ridge=spec.ridge, progress=progress.bar("gaussians", quiet))
    fitted.save(out)
    print(f"wrote {out}: {len(fitted.mean)} Gaussians of {fitted.mean.shape[1]} dimensions")
