"""Training of a method, or of the judge: `advebm train`."""

from wiring import stage

if __name__ == "__main__":
    stage("train")
