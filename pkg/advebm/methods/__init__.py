"""Training methods, one per file, by their names in params.yaml. They never import each other."""

from advebm.methods.at import AT
from advebm.methods.at_ebm import ATEBM
from advebm.methods.base import Method
from advebm.methods.dat import DAT
from advebm.methods.eb_jdat import EBJDAT
from advebm.methods.glow import Glow
from advebm.methods.igebm import IGEBM
from advebm.methods.jeat import JEAT
from advebm.methods.jem import JEM
from advebm.methods.jempp import JEMPP
from advebm.methods.noise import Noise
from advebm.methods.oe import OE
from advebm.methods.prejeat import PreJEAT
from advebm.methods.ratio import Ratio
from advebm.methods.residual_flow import ResidualFlow
from advebm.methods.robust_jem import RobustJEM
from advebm.methods.sada_jem import SADAJEM
from advebm.methods.standard import Standard
from advebm.methods.weat import WEAT

METHODS: dict[str, type[Method]] = {
    "standard": Standard,
    "at": AT,
    "jem": JEM,
    "jempp": JEMPP,
    "robust_jem": RobustJEM,
    "noise": Noise,
    "prejeat": PreJEAT,
    "jeat": JEAT,
    "at_ebm": ATEBM,
    "oe": OE,
    "ratio": Ratio,
    "igebm": IGEBM,
    "glow": Glow,
    "residual_flow": ResidualFlow,
    "weat": WEAT,
    "eb_jdat": EBJDAT,
    "dat": DAT,
    "sada_jem": SADAJEM,
}
