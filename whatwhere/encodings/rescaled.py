"""Another spectrum for an encoding that is already trained: how PI, NTK, YaRN, … are applied."""

from __future__ import annotations

from typing import final

from whatwhere.encodings.base import Encoding, Turning, Wrapper
from whatwhere.phases import Phases
from whatwhere.rule import ScoreRule
from whatwhere.spectra import Spectrum

__all__ = ["Rescaled"]


@final
class Rescaled(Wrapper):
    """The inner encoding with another spectrum and the same parameters.

    `rope+yarn(factor=8)` is Rescaled(rope, yarn(factor=8)). Raises TypeError if the inner encoding
    has no spectrum.
    """

    name = "rescaled"
    cite = ""

    def __init__(self, inner: Encoding, spectrum: Spectrum) -> None:
        super().__init__(inner)
        if not isinstance(inner, Turning):
            raise TypeError(
                f"{spectrum.name} rescales frequencies, and {inner.name!r} has none; apply it to "
                "rope, pope or xpos, before any other modifier"
            )
        self.phases = Phases(spectrum, inner.phases.dim)

    @property
    def length_dependent(self) -> bool:
        """Whether the new spectrum depends on the length."""
        return self.phases.spectrum.length_dependent

    @property
    def relative(self) -> bool:
        """As the inner encoding would be with this spectrum: its own one counts no more."""
        assert isinstance(self.inner, Turning)
        return self.inner.relative_with(self.phases.spectrum)

    def rule(self, horizon: int | None = None, *, training: bool = False) -> ScoreRule:
        """The inner encoding's rule at the new angles."""
        assert isinstance(self.inner, Turning)
        return self.inner.rule_with(self.phases.at(horizon), horizon)
