"""The script that each process of test_ranks runs: python sharing.py FILE, started by ranks.launch."""

import sys

import torch
from safetensors.torch import save_file

from advebm.runtime import ranks
from test_ranks import work

torch.set_num_threads(1)
with ranks.joined():
    found = work()
    if ranks.rank() == 0:
        save_file(found, sys.argv[1])
