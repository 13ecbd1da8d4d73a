"""Data sets and out-distribution sets: `advebm prepare`."""

from wiring import stage

if __name__ == "__main__":
    stage("prepare")
