"""RoPE: queries and keys turned by their positions, so that their product knows the distance."""

from __future__ import annotations

from typing import Any, final

from whatwhere.encodings.base import Shape, Turning, choice
from whatwhere.errors import real_number
from whatwhere.maps import Rotate
from whatwhere.phases import Angles, Phases
from whatwhere.regions import EVERYWHERE
from whatwhere.rule import ScoreRule, Term
from whatwhere.spectra import Spectrum, geometric

__all__ = ["RoPE"]

_VALUES = ("none", "absolute", "relative")


@final
class RoPE(Turning):
    """score = Σ_c Re[q_c conj(k_c) e^(I (i-j) θ_c)] / √d over pairs of channels, θ from a spectrum.

    Options:
        layout: pairs (c, c + r/2) "half" (Hugging Face), (2c, 2c + 1) "interleaved" (Meta, paper).
        partial: rotate the first floor(head_dim · partial) channels; the exponent uses *that*
            number (GPT-NeoX, StableLM, Phi).
            p-RoPE is not this but a spectrum, `proportional`: exponent and pairing use head_dim,
            the slow frequencies are zero. Ports mix the two up (encodings.md §7).
        values: "absolute" also rotates values; "relative" turns the output back by the query's
            position, so Σ_j a_ij R_(j-i) v_j (VO-RoPE, kexue.fm 10862).
    Source: arXiv 2104.09864.
    """

    name = "rope"
    cite = "rope"

    def __init__(
        self,
        shape: Shape,
        spectrum: Spectrum | None = None,
        layout: Any = "half",
        partial: float = 1.0,
        values: str | None = "none",
    ) -> None:
        super().__init__(shape)
        self.layout: Any = choice("layout of rope", layout, ("half", "interleaved"))
        self.values = choice("values of rope", values, _VALUES)
        self.phases = Phases(spectrum or geometric(), _even("partial", partial, shape.head_dim))

    def relative_with(self, spectrum: Spectrum) -> bool:
        """False if values are rotated absolutely, else as the spectrum."""
        return super().relative_with(spectrum) and self.values != "absolute"

    def rule_with(self, angles: Angles, horizon: int | None = None) -> ScoreRule:
        """One term: the same rotation on both sides; maps on values if asked for."""
        rotate = Rotate(angles, self.layout)
        value = None if self.values == "none" else Rotate(_unit(angles), self.layout)
        back = Rotate(_unit(angles), self.layout, direction=-1)
        return ScoreRule(
            terms=(Term(rotate, rotate, EVERYWHERE),),
            value=value,
            output=back if self.values == "relative" else None,
            head_dim=self.shape.head_dim,
        )


def _unit(angles: Angles) -> Angles:
    # An attention factor (YaRN) is a temperature on scores; values must keep their length.
    return Angles(angles.turns, 1.0, angles.start, angles.start_turns)


def _even(name: str, share: float, head_dim: int) -> int:
    real_number(name, share, above=0, most=1, why="it is a share of the head")
    rotated = int(head_dim * share)
    if rotated < 2 or rotated % 2:
        raise ValueError(
            f"head_dim {head_dim} with {name} {share} leaves {rotated} channels to rotate; "
            "rotation pairs them, so give an even number of at least 2"
        )
    return rotated
