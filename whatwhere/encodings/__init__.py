"""Every positional encoding people use, as values of one type."""

from whatwhere.encodings.alibi import Alibi
from whatwhere.encodings.base import Encoding, Shape, Turning, Wrapper
from whatwhere.encodings.build import Context, build, from_dict, make, modify
from whatwhere.encodings.cope import CoPE
from whatwhere.encodings.dual_chunk import DualChunk
from whatwhere.encodings.expression import Expression, Part, parse
from whatwhere.encodings.fire import Fire
from whatwhere.encodings.kerple import Kerple
from whatwhere.encodings.learned import Learned
from whatwhere.encodings.nope import NoPE
from whatwhere.encodings.pope import PoPE
from whatwhere.encodings.rerope import InverseLeakyReRoPE, LeakyReRoPE, ReRoPE
from whatwhere.encodings.rescaled import Rescaled
from whatwhere.encodings.rope import RoPE
from whatwhere.encodings.sandwich import Sandwich
from whatwhere.encodings.self_extend import SelfExtend
from whatwhere.encodings.shaw import Shaw
from whatwhere.encodings.sinusoidal import Sinusoidal
from whatwhere.encodings.t5 import T5Bias
from whatwhere.encodings.table import TABLE, Entry, encodings, modifiers
from whatwhere.encodings.temperature import Llama4Temperature, LogN, YarnTemperature
from whatwhere.encodings.xpos import XPos

__all__ = [
    "TABLE",
    "Alibi",
    "CoPE",
    "Context",
    "DualChunk",
    "Encoding",
    "Entry",
    "Expression",
    "Fire",
    "InverseLeakyReRoPE",
    "Kerple",
    "LeakyReRoPE",
    "Learned",
    "Llama4Temperature",
    "LogN",
    "NoPE",
    "Part",
    "PoPE",
    "ReRoPE",
    "Rescaled",
    "RoPE",
    "Sandwich",
    "SelfExtend",
    "Shape",
    "Shaw",
    "Sinusoidal",
    "T5Bias",
    "Turning",
    "Wrapper",
    "XPos",
    "YarnTemperature",
    "build",
    "encodings",
    "from_dict",
    "make",
    "modifiers",
    "modify",
    "parse",
]
