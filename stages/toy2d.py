"""Binary adversarial training in two dimensions (AE, Fig. 1): `advebm toy2d`."""

from wiring import stage

if __name__ == "__main__":
    stage("toy2d")
