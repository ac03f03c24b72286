"""What a model.py imports: the Input it is called with and the Output it answers with.

The names and the behaviour are those of DJL Serving's package of the same name, so that handlers written for it run unchanged; the code is ours.
"""

from .inputs import Input
from .outputs import Output
from .pair_list import PairList

__all__ = ["Input", "Output", "PairList"]
