"""Images by each recipe of a method: `advebm sample`."""

from wiring import stage

if __name__ == "__main__":
    stage("sample")
