"""Every encoding by name. Adding one is its file, its line here and its golden file.

A line may preset options: `rope_abf` is RoPE with another spectrum, and a name of its own because
people look for it. Names of spectra (yarn, linear, ntk, …) can stand wherever a modifier can.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from whatwhere import spectra
from whatwhere.encodings.alibi import Alibi
from whatwhere.encodings.base import Encoding, Wrapper
from whatwhere.encodings.cope import CoPE
from whatwhere.encodings.dual_chunk import DualChunk
from whatwhere.encodings.fire import Fire
from whatwhere.encodings.kerple import Kerple
from whatwhere.encodings.learned import Learned
from whatwhere.encodings.nope import NoPE
from whatwhere.encodings.pope import PoPE
from whatwhere.encodings.rerope import InverseLeakyReRoPE, LeakyReRoPE, ReRoPE
from whatwhere.encodings.rope import RoPE
from whatwhere.encodings.sandwich import Sandwich
from whatwhere.encodings.self_extend import SelfExtend
from whatwhere.encodings.shaw import Shaw
from whatwhere.encodings.sinusoidal import Sinusoidal
from whatwhere.encodings.t5 import T5Bias
from whatwhere.encodings.temperature import Llama4Temperature, LogN, YarnTemperature
from whatwhere.encodings.xpos import XPos

__all__ = ["TABLE", "Entry", "encodings", "modifiers"]


@dataclass(frozen=True)
class Entry:
    """A line of the table: the class, one sentence, and options that the name presets."""

    kind: type[Encoding]
    about: str
    preset: dict[str, Any] = field(default_factory=dict)

    @property
    def modifier(self) -> bool:
        """Whether it wraps another encoding instead of standing alone."""
        return issubclass(self.kind, Wrapper)


TABLE: dict[str, Entry] = {
    "nope": Entry(NoPE, "no encoding: only the causal mask tells order"),
    "learned": Entry(Learned, "a learned row per position, added to the embedding"),
    "sinusoidal": Entry(Sinusoidal, "sines and cosines added to the embedding"),
    "shaw": Entry(Shaw, "learned vectors per clipped distance on keys and values"),
    "t5": Entry(T5Bias, "a learned bias per bucket of distance"),
    "alibi": Entry(Alibi, "a fixed penalty linear in distance"),
    "kerple": Entry(Kerple, "a learned log or power kernel of distance as bias"),
    "fire": Entry(Fire, "an MLP of normalized log distance as bias"),
    "sandwich": Entry(Sandwich, "the inner product of sinusoids as bias"),
    "rope": Entry(RoPE, "queries and keys rotated by position"),
    "rope_abf": Entry(RoPE, "RoPE with its base raised 50-fold", {"spectrum": spectra.abf()}),
    "rope_partial": Entry(RoPE, "RoPE on a quarter of the channels", {"partial": 0.25}),
    "p_rope": Entry(
        RoPE, "RoPE without its slow frequencies", {"spectrum": spectra.proportional()}
    ),
    "rope_values": Entry(RoPE, "RoPE that rotates values too", {"values": "absolute"}),
    "vo_rope": Entry(RoPE, "RoPE on values, undone on the output", {"values": "relative"}),
    "xpos": Entry(XPos, "RoPE with a decay over distance"),
    "pope": Entry(PoPE, "magnitude from content, phase from position"),
    "cope": Entry(CoPE, "positions counted by gates on content"),
    "rerope": Entry(ReRoPE, "distance held constant beyond a window"),
    "leaky_rerope": Entry(LeakyReRoPE, "distance slowed beyond a window"),
    "inverse_leaky_rerope": Entry(InverseLeakyReRoPE, "distance stretched in training only"),
    "self_extend": Entry(SelfExtend, "distant positions in groups"),
    "dual_chunk": Entry(DualChunk, "positions counted within chunks"),
    "logn": Entry(LogN, "scores scaled with the log of the position"),
    "yarn_temperature": Entry(YarnTemperature, "YaRN's softmax temperature alone"),
    "llama4_temperature": Entry(Llama4Temperature, "Llama 4's stepwise log temperature"),
}


def encodings() -> list[str]:
    """Names of the encodings that stand alone."""
    return [name for name, entry in TABLE.items() if not entry.modifier]


def modifiers() -> list[str]:
    """Names of the encodings that wrap another; spectra are modifiers too."""
    return [name for name, entry in TABLE.items() if entry.modifier]
