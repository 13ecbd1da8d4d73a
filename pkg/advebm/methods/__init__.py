"""Training methods, one a file, by the names that params.yaml uses. They never import each other."""

from advebm.methods.at import AT
from advebm.methods.base import Method
from advebm.methods.jem import JEM
from advebm.methods.jempp import JEMPP
from advebm.methods.robust_jem import RobustJEM
from advebm.methods.standard import Standard

METHODS: dict[str, type[Method]] = {
    "standard": Standard,
    "at": AT,
    "jem": JEM,
    "jempp": JEMPP,
    "robust_jem": RobustJEM,
}
