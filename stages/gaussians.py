"""The class Gaussians: `advebm gaussians`."""

from wiring import stage

if __name__ == "__main__":
    stage("gaussians")
