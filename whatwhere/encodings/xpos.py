"""xPos: RoPE with a decay that makes far products smaller."""

from __future__ import annotations

import math
from typing import Any, final

from whatwhere.encodings.base import Shape, Turning, choice, horizon_of
from whatwhere.errors import real_number
from whatwhere.maps import Decay, Rotate
from whatwhere.phases import Angles, Phases
from whatwhere.regions import EVERYWHERE
from whatwhere.rule import ScoreRule, Term
from whatwhere.spectra import Spectrum, geometric

__all__ = ["XPos"]


@final
class XPos(Turning):
    """score = Σ_c ζ_c^((i-j)/span) Re[q_c conj(k_c) e^(I (i-j) θ_c)] / √d.

    ζ_c = (2c/d + gamma) / (1 + gamma), c = 0..d/2-1, gamma 0.4, span 512 tokens. The factor is
    split into ζ^(p - centre) on the query and its reciprocal on the key; the centre cancels and is
    half the horizon here, only to stay inside float32. Implementations that rotate before caching
    move the centre with the length and so disagree with their own cache
    (rotary-embedding-torch #27); keys are cached un-rotated here. Sequences of more than about
    35,000 tokens overflow float32 in any split and raise.
    Source: arXiv 2212.10554 and torchscale.
    """

    name = "xpos"
    cite = "xpos"

    def __init__(
        self,
        shape: Shape,
        spectrum: Spectrum | None = None,
        layout: Any = "half",
        gamma: float = 0.4,
        span: float = 512.0,
    ) -> None:
        super().__init__(shape)
        if shape.head_dim % 2:
            raise ValueError(f"head_dim is {shape.head_dim}; rotation pairs channels: give even")
        real_number("gamma", gamma, above=0)
        real_number("span", span, above=0)
        self.layout: Any = choice("layout of xpos", layout, ("half", "interleaved"))
        self.gamma, self.span = gamma, span
        self.phases = Phases(spectrum or geometric(), shape.head_dim)
        slowest_decay = math.log(gamma / (1 + gamma))
        self.reach = int(2 * 80.0 / -slowest_decay * span)

    def rule_with(self, angles: Angles, horizon: int | None = None) -> ScoreRule:
        """Decaying rotations centred at half the horizon. Raises ValueError beyond float32."""
        if horizon is not None and horizon_of(horizon, "xpos") > self.reach:
            raise ValueError(
                f"horizon is {horizon}; xPos with gamma {self.gamma} and span {self.span} leaves "
                f"float32 beyond {self.reach} tokens: raise gamma or span"
            )
        centre = 0 if horizon is None else horizon // 2
        query = Rotate(angles, self.layout, decay=Decay(self.gamma, 1, centre, self.span))
        key = Rotate(angles, self.layout, decay=Decay(self.gamma, -1, centre, self.span))
        term = Term(query, key, EVERYWHERE)
        return ScoreRule(terms=(term,), head_dim=self.shape.head_dim)
