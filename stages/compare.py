"""All methods of a study side by side: `advebm compare`."""

from wiring import stage

if __name__ == "__main__":
    stage("compare")
