"""Types of parameters: what params.yaml may hold in a field of this type is checked when it is read. And numbers that
several modules share."""

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

LEAST = 10  # images of a split or of a recipe: the groups of the jackknife of FID and KID
COLLAPSED = 0.01  # images have collapsed below this part of the data's standard deviation of pixels over images
CORNERS = 0.1  # or of its share of pixels that are neither 0 nor 1; on digits the methods have .5 to 2.2 of it
TARGETED = 4  # classes that the targeted loss of AutoAttack needs

Count = Annotated[int, Ge(1)]
Several = Annotated[int, Ge(2)]  # images of which an interval is estimated
Steps = Annotated[int, Ge(0)]
Positive = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]
Fraction = Annotated[float, Ge(0), Le(1)]
Start = Literal["gaussians", "uniform", "outliers"]  # what generation and ascents begin with
Precision = Literal["fp32", "tf32", "bf16"]  # of passes; tf32, torch's default on a GPU, is float32 on a CPU
