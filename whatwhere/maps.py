"""Maps: one vector at one position becomes the features that a score is a product of.

A map takes x (batch, heads, n, d) and positions (1 or batch, n) to features (batch, heads, n, f);
f may be wider than d. `Plain` ignores the position, `Rotate` turns pairs of channels (RoPE),
`Polar` gives every channel its own phase (PoPE). Each holds a `Reindex`, the position as the term
sees it, so ReRoPE, Self-Extend and Dual Chunk Attention are re-indexed rotations, not new ones.

Phases and products are computed in float32 (float64 for float64 input) and cast once at the end:
casting cosines first, or softplus before the product, costs three bits (pope.md §1.4).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from whatwhere.content import Content, Magnitude, magnitude
from whatwhere.errors import whole_number
from whatwhere.phases import Angles

__all__ = ["PLAIN", "Decay", "Map", "Plain", "Polar", "Reindex", "Rotate"]

Layout = Literal["half", "interleaved"]


@dataclass(frozen=True)
class Reindex:
    """A position as a term sees it: p -> min((p mod modulo) // group + offset, most).

    None leaves a step out. modulo = 1 with an offset is a constant, which is how ReRoPE parks every
    far query at its window. Units: tokens.
    """

    modulo: int | None = None
    group: int = 1
    offset: int = 0
    most: int | None = None

    def __post_init__(self) -> None:
        if self.modulo is not None:
            whole_number("modulo", self.modulo)
        whole_number("group", self.group)
        whole_number("offset", self.offset, least=None)

    def __call__(self, positions: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
        """The re-indexed positions, int64, of the same shape."""
        if self.modulo is not None:
            positions = positions.remainder(self.modulo)
        if self.group > 1:
            positions = positions.div(self.group, rounding_mode="floor")
        if self.offset:
            positions = positions + self.offset
        return positions if self.most is None else positions.clamp(max=self.most)


@dataclass(frozen=True)
class Decay:
    """xPos's decay: pair c is multiplied by ζ_c^(side · (p - centre) / span).

    ζ_c = (c / pairs + gamma) / (1 + gamma). side is +1 for queries, -1 for keys, so a score decays
    with i - j alone and the centre cancels; it only keeps both factors inside float32.
    Source: arXiv 2212.10554; torchscale writes the base as (2c + gamma·d) / ((1 + gamma)·d).
    """

    gamma: float
    side: Literal[1, -1]
    centre: int = 0
    span: float = 512.0

    def factor(
        self, positions: Int[Tensor, "#b n"], pairs: int, dtype: torch.dtype
    ) -> Float[Tensor, "#b n f"]:
        """The factor of every channel pair at every position."""
        step = torch.arange(pairs, device=positions.device, dtype=dtype) / pairs
        rate = torch.log((step + self.gamma) / (1.0 + self.gamma))
        power = (positions - self.centre).to(dtype)[..., None] * (self.side / self.span)
        return torch.exp(power * rate)

    def slowed(self, factor: float) -> Decay:
        """The same decay over distances that are `factor` times as long."""
        return replace(self, span=self.span * factor)


@runtime_checkable
class Map(Protocol):
    """One vector at one position -> features. Implementations are frozen dataclasses.

    map(x, p) = map.of_content()(map.content(x), p): `content` is the part without a position.
    """

    def __call__(
        self, x: Float[Tensor, "b h n d"], positions: Int[Tensor, "#b n"]
    ) -> Float[Tensor, "b h n f"]:
        """Features of x at the given positions, in x's dtype."""
        ...

    def width(self, head_dim: int) -> int:
        """Number of features for vectors of `head_dim` channels."""
        ...

    def moved(self, reindex: Reindex) -> Map:
        """The same map reading positions through `reindex`."""
        ...

    def slowed(self, factor: float) -> Map:
        """The same map with every frequency divided by `factor`."""
        ...

    @property
    def content(self) -> Content:
        """The part of the map that knows no position, as wide as x."""
        ...

    def of_content(self) -> Map:
        """The rest of the map: it reads `content(x)` instead of x."""
        ...


@dataclass(frozen=True)
class Plain:
    """Features are the vector itself: x -> x (NoPE, every bias method)."""

    def __call__(
        self, x: Float[Tensor, "b h n d"], positions: Int[Tensor, "#b n"]
    ) -> Float[Tensor, "b h n d"]:
        """x, unchanged."""
        return x

    def width(self, head_dim: int) -> int:
        """head_dim."""
        return head_dim

    def moved(self, reindex: Reindex) -> Plain:
        """Itself: there is no position to re-index."""
        return self

    def slowed(self, factor: float) -> Plain:
        """Itself: nothing turns."""
        return self

    @property
    def content(self) -> Content:
        """The vector itself."""
        return Content()

    def of_content(self) -> Plain:
        """Itself."""
        return self


PLAIN = Plain()


def _working(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


@dataclass(frozen=True, eq=False)
class Rotate:
    """Turn pairs of channels by position: (x_a + I x_b) -> amplitude · (x_a + I x_b) e^(I p θ_c).

    The pairs are (c, c + r/2) for layout "half" (HF Llama, NeoX, Qwen) and (2c, 2c + 1) for
    "interleaved" (the paper, Meta's Llama, GPT-J), among the first r = 2 · frequencies channels;
    the rest pass through. Mixing the layouts up is silent garbage: the argument is not optional in
    a checkpoint. `direction` -1 turns back, which makes rotated values relative (VO-RoPE).
    Source: arXiv 2104.09864, Eq. 13-16.
    """

    angles: Angles
    layout: Layout = "half"
    reindex: Reindex | None = None
    direction: Literal[1, -1] = 1
    decay: Decay | None = None

    def __call__(
        self, x: Float[Tensor, "b h n d"], positions: Int[Tensor, "#b n"]
    ) -> Float[Tensor, "b h n d"]:
        """Rotated x. Raises ValueError if x has fewer than 2 · frequencies channels."""
        dtype, rotated = _working(x), 2 * self.angles.count
        if x.shape[-1] < rotated:
            raise ValueError(
                f"x has {x.shape[-1]} channels, but {self.angles.count} frequencies turn {rotated}"
            )
        seen = positions if self.reindex is None else self.reindex(positions)
        phase = self.angles.phase(seen, dtype)[..., None, :, :]
        amplitude: Tensor | float = self.angles.amplitude
        if self.decay is not None:
            amplitude = (
                amplitude * self.decay.factor(seen, self.angles.count, dtype)[..., None, :, :]
            )
        cosine = phase.cos() * amplitude
        sine = phase.sin() * (amplitude if self.direction == 1 else -amplitude)
        head, rest = x[..., :rotated].to(dtype), x[..., rotated:]
        if self.layout == "half":
            a, b = head.chunk(2, dim=-1)
            turned = torch.cat((a * cosine - b * sine, b * cosine + a * sine), dim=-1)
        else:
            a, b = head[..., 0::2], head[..., 1::2]
            pairs = torch.stack((a * cosine - b * sine, b * cosine + a * sine), dim=-1)
            turned = pairs.flatten(-2)
        turned = turned.to(x.dtype)
        return turned if rest.shape[-1] == 0 else torch.cat((turned, rest), dim=-1)

    def width(self, head_dim: int) -> int:
        """head_dim: a rotation adds no features."""
        return head_dim

    def moved(self, reindex: Reindex) -> Rotate:
        """The same rotation reading positions through `reindex`."""
        return replace(self, reindex=reindex)

    def slowed(self, factor: float) -> Rotate:
        """The same rotation with every frequency, and the rate of decay, divided by `factor`."""
        decay = None if self.decay is None else self.decay.slowed(factor)
        return replace(self, angles=self.angles.slowed(factor), decay=decay)

    @property
    def content(self) -> Content:
        """The vector itself: a rotation is linear, all of it depends on the position."""
        return Content()

    def of_content(self) -> Rotate:
        """Itself."""
        return self


@dataclass(frozen=True, eq=False)
class Polar:
    """PoPE: channel c becomes a complex number, magnitude from content, phase from position alone.

    mu_c = softplus(x_c);  features [mu_c cos(p θ_c + o_c) | mu_c sin(p θ_c + o_c)], 2r of them for
    the first r = number of frequencies channels; channels beyond r follow unchanged. A product of
    query and key features is sum_c mu_q mu_k cos((j - i) θ_c + δ_c) when o = -δ on the query.
    δ is on the *query* here, the same score as on the key (pope.md §1.3, identity 4): only then
    can it be per query head while grouped-query keys are turned and cached once per KV head.
    `offset` has shape (heads, r), radians; (s, heads, r) for s models side by side: each has an
    equal part of the batch, one after the other. Source: arXiv 2509.10534, Eqs. 3-10 (whose printed
    exponent of θ_c has the wrong sign).
    """

    angles: Angles
    magnitude: Magnitude = "softplus"
    offset: Float[Tensor, "*s h r"] | None = None
    reindex: Reindex | None = None

    def __call__(
        self, x: Float[Tensor, "b h n d"], positions: Int[Tensor, "#b n"]
    ) -> Float[Tensor, "b h n f"]:
        """Features of x. Raises ValueError if x has fewer channels than there are frequencies, or a
        batch that `offset`'s models can not share evenly."""
        dtype, count = _working(x), self.angles.count
        if x.shape[-1] < count:
            raise ValueError(f"x has {x.shape[-1]} channels, but {count} frequencies need as many")
        size = self._size(x[..., :count].to(dtype)) * self.angles.amplitude
        seen = positions if self.reindex is None else self.reindex(positions)
        phase = self.angles.phase(seen, dtype)[..., None, :, :]
        cosine, sine = phase.cos(), phase.sin()
        if self.offset is not None:
            # Angle addition: one sine a position and one a head, not one for every pair of them.
            turn = self._offset_of(len(x)).to(dtype)[..., None, :]
            co, so = turn.cos(), turn.sin()
            cosine, sine = cosine * co - sine * so, sine * co + cosine * so
        parts = [(size * cosine).to(x.dtype), (size * sine).to(x.dtype)]
        if x.shape[-1] > count:
            parts.append(x[..., count:])
        return torch.cat(parts, dim=-1)

    def _offset_of(self, batch: int) -> Tensor:
        """(h, r) or, of every batch element, (b, h, r)."""
        assert self.offset is not None
        if self.offset.dim() == 2:
            return self.offset
        sets = len(self.offset)
        if batch % sets:
            raise ValueError(f"offset is of {sets} models, which can not share a batch of {batch}")
        return self.offset.repeat_interleave(batch // sets, dim=0)

    def _size(self, x: Tensor) -> Tensor:
        return magnitude(x, self.magnitude)

    def width(self, head_dim: int) -> int:
        """head_dim plus one more for every channel with a phase."""
        return head_dim + self.angles.count

    def moved(self, reindex: Reindex) -> Polar:
        """The same map reading positions through `reindex`."""
        return replace(self, reindex=reindex)

    def slowed(self, factor: float) -> Polar:
        """The same map with every frequency divided by `factor`."""
        return replace(self, angles=self.angles.slowed(factor))

    @property
    def content(self) -> Content:
        """The magnitudes; channels without a phase as they are. The amplitude is the spectrum's."""
        return Content(self.magnitude, self.angles.count)

    def of_content(self) -> Polar:
        """The same phases around magnitudes that are given."""
        return replace(self, magnitude="identity")
