"""The class Gaussians."""

from advebm import config
from advebm.commands import options as o


def gaussians(
    data: o.Prepared, out: o.OutFile, study: o.Study = "digits", params: o.Params = o.PARAMS, quiet: o.Quiet = False
) -> None:
    """Fit a Gaussian to the training images of each class."""
    spec = config.build(config.Gaussian, config.read(params, study)["gaussians"])
    from advebm.data import images
    from advebm.data.gaussians import Gaussians
    from advebm.runtime import progress

    fitted = Gaussians.fit(images.load(data / "train.npz"), ridge=spec.ridge, progress=progress.bar("gaussians", quiet))
    fitted.save(out)
    print(f"wrote {out}: {len(fitted.mean)} Gaussians of {fitted.mean.shape[1]} dimensions")
