"""A method's energy around real images: `advebm landscape`."""

from wiring import stage

if __name__ == "__main__":
    stage("landscape")
