"""The selected method beside the published numbers: `advebm report`."""

from wiring import stage

if __name__ == "__main__":
    stage("report")
