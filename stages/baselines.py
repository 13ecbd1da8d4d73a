"""Scores of class Gaussians and real images, the two ends of the scale: `advebm baselines`."""

from wiring import stage

if __name__ == "__main__":
    stage("baselines")
