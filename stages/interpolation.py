"""Interpolation between a method's samples: `advebm interpolation`."""

from wiring import stage

if __name__ == "__main__":
    stage("interpolation")
