"""Sizes and choices of the decoder, checked before anything is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from whatwhere.encodings import Shape, parse
from whatwhere.errors import UnknownName, did_you_mean, flag, probability, whole_number

__all__ = ["DecoderConfig"]


@dataclass(frozen=True)
class DecoderConfig:
    """A decoder: `layers` blocks of attention over `heads` heads and an MLP of `hidden` units.

    None means: kv_heads = heads, head_dim = width / heads, hidden = 8/3 width (swiglu) or 4 width
    (gelu), rounded up to a multiple of 8, max_length (of a learned table) = train_length.
    `encoding` is an expression (see `whatwhere.encodings.expression`); the model has the part
    before its first "+" as parameters and uses the whole.
    Raises ValueError that names the field.
    """

    vocab_size: int
    width: int = 128
    layers: int = 4
    heads: int = 4
    kv_heads: int | None = None
    head_dim: int | None = None
    hidden: int | None = None
    qk_norm: bool = False
    activation: str = "swiglu"
    tie_embeddings: bool = True
    dropout: float = 0.0
    encoding: str = "rope"
    train_length: int = 256
    max_length: int | None = None

    def __post_init__(self) -> None:
        optional = ("kv_heads", "head_dim", "hidden", "max_length")
        for name in ("vocab_size", "width", "layers", "heads", "train_length", *optional):
            if getattr(self, name) is not None or name not in optional:
                whole_number(name, getattr(self, name))
        flag("qk_norm", self.qk_norm)
        flag("tie_embeddings", self.tie_embeddings)
        if self.head_dim is None and self.width % self.heads:
            raise ValueError(
                f"width is {self.width}, no multiple of heads {self.heads}: give head_dim, or a "
                "width that divides evenly"
            )
        if self.activation not in ("swiglu", "gelu"):
            raise UnknownName(did_you_mean("activation", self.activation, ("swiglu", "gelu")))
        probability("dropout", self.dropout)
        parse(self.encoding)
        _ = self.shape

    @property
    def shape(self) -> Shape:
        """The sizes that an encoding needs."""
        return Shape(self.heads, self.channels, self.kv_heads or self.heads, self.width)

    @property
    def channels(self) -> int:
        """Channels of one head."""
        return self.head_dim or self.width // self.heads

    @property
    def units(self) -> int:
        """Hidden units of the MLP."""
        if self.hidden is not None:
            return self.hidden
        wide = self.width * 8 / 3 if self.activation == "swiglu" else self.width * 4
        return -(-int(wide) // 8) * 8

    def to_dict(self) -> dict[str, Any]:
        """Every field, as JSON types."""
        return asdict(self)

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> DecoderConfig:
        """The config that `to_dict` wrote. Raises UnknownName for a key that is no field."""
        known = [field.name for field in fields(DecoderConfig)]
        for key in data:
            if key not in known:
                raise UnknownName(did_you_mean("field of DecoderConfig", key, known))
        if "vocab_size" not in data:
            raise ValueError("vocab_size is missing; it is the one field without a default")
        return DecoderConfig(**data)
