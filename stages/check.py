"""The params file is right: nothing long begins before: `advebm check`."""

from wiring import stage

if __name__ == "__main__":
    stage("check")
