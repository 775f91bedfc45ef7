"""The key/value cache: keys before any rotation, as they are or as their content (`rule.content`).

Then decoding equals one pass exactly, for every method: a spectrum that changes with the length
turns *all* keys by the new one (caches of rotated keys keep the old base: transformers #25104),
PoPE's cache is as small as RoPE's, and positions can be re-indexed. The cost is that keys are
turned when they are read; what knows no position (PoPE's softplus) is done when they are stored.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from whatwhere.content import Content
from whatwhere.errors import kind_of, whole_number

__all__ = ["KVCache"]


class KVCache:
    """Keys (or their content) and values of every layer, with the position of each token.

    Buffers of a fixed capacity are allocated at the first append and written in place; `positions`
    and `valid` (False: padding) belong to tokens, not layers, and are set once per step by
    `advance`. Keys (batch, kv_heads, capacity, head_dim), values with their own width.

    A step is `advance(positions, valid)`, or `follow(count)` where tokens follow one another, then
    for every layer `update(layer, k, v, content)`, which returns all keys and values up to now.
    Nothing is ever evicted silently: beyond the capacity it raises.
    """

    def __init__(self, layers: int, capacity: int) -> None:
        layers = whole_number("layers", layers)
        self.capacity = whole_number("capacity", capacity)
        self.length = 0
        self._keys: list[Tensor | None] = [None] * layers
        self._values: list[Tensor | None] = [None] * layers
        self._filled = [0] * layers
        self._positions: Tensor | None = None
        self._valid: Tensor | None = None
        self._content: Content | None = None
        self._first: int | Tensor | None = None
        self._padded = False

    def __len__(self) -> int:
        return self.length

    @property
    def layers(self) -> int:
        """Number of layers."""
        return len(self._keys)

    @property
    def bytes(self) -> int:
        """Memory of all keys and values, in bytes, as allocated."""
        tensors = [*self._keys, *self._values]
        return sum(t.numel() * t.element_size() for t in tensors if t is not None)

    @property
    def positions(self) -> Int[Tensor, "b n"]:
        """Position of every cached token."""
        return self._filled_part(self._positions)

    @property
    def valid(self) -> Bool[Tensor, "b n"]:
        """False where a cached token is padding."""
        return self._filled_part(self._valid)

    @property
    def content(self) -> Content | None:
        """What the cached keys are; None as long as there are none."""
        return self._content if self.length else None

    @property
    def first(self) -> int | Int[Tensor, " b"] | None:
        """Position of the first token, of all rows or of each, if all others follow it one by one.

        None if that is not known (`advance`, `reindex`, `keep`). Nothing is read to tell.
        """
        return self._first if self.length else None

    @property
    def padded(self) -> bool:
        """Whether any token may be padding, known without reading `valid`."""
        return self._padded and self.length > 0

    def follow(
        self,
        count: int,
        *,
        batch: int | None = None,
        first: int | Int[Tensor, " b"] = 0,
        device: torch.device | str | None = None,
    ) -> Int[Tensor, "b n"]:
        """Announce `count` tokens a row that follow the last ones, position by position.

        Returns their positions. Only an empty cache takes the other arguments: the number of rows,
        and the position of the first token, one for all or int64 (batch,) — negative where a row
        is padded on the left: tokens before position 0 are padding. Then `first` is known for good.
        Raises ValueError if they do not fit, or if the tokens so far do not follow one another.
        """
        whole_number("count", count)
        if self.length == 0 or self._positions is None:
            if isinstance(first, Tensor):
                _check("first", first, torch.int64, axes=1)
                batch, device = first.shape[0], first.device
            else:
                whole_number("first", first, least=None)
            self._first = None
            batch, begin = whole_number("batch", batch), first
        elif self._first is None:
            raise ValueError(
                "the cached tokens are not known to follow one another (after advance, keep or "
                "reindex): announce the next ones with advance(positions)"
            )
        else:
            batch, device, begin = self._positions.shape[0], self._positions.device, self._first
        at = torch.arange(self.length, self.length + count, device=device)
        at = at + (begin[:, None] if isinstance(begin, Tensor) else begin)
        at = at.expand(batch, -1)
        may_pad = isinstance(begin, Tensor) or begin < 0
        self.advance(at, at >= 0 if may_pad else None)
        self._first = begin
        return at

    def advance(
        self, positions: Int[Tensor, "b n"], valid: Bool[Tensor, "b n"] | None = None
    ) -> None:
        """Announce the next tokens: their positions, (batch, n) int64, and which are real.

        Raises ValueError if they do not fit, TypeError if positions are not integers.
        """
        _check("positions", positions, torch.int64)
        if valid is not None:
            _check("valid", valid, torch.bool)
            if valid.shape != positions.shape:
                raise ValueError(
                    f"valid has shape {tuple(valid.shape)}; give that of positions, "
                    f"{tuple(positions.shape)}"
                )
        if self.length and min(self._filled) != self.length:
            raise RuntimeError("advance was called twice without an update of every layer between")
        batch, count = positions.shape
        end = self.length + count
        if end > self.capacity:
            raise ValueError(
                f"{end} tokens do not fit into a cache of {self.capacity}; make it larger, or crop"
            )
        if self._positions is None or self._valid is None:
            self._positions = positions.new_zeros(batch, self.capacity)
            self._valid = torch.zeros_like(self._positions, dtype=torch.bool)
        if self._positions.shape[0] != batch:
            rows = self._positions.shape[0]
            raise ValueError(f"positions has {batch} rows; the cache holds {rows}")
        if self.length == 0:
            self._content, self._padded = None, False
        self._first = None
        self._padded = self._padded or valid is not None
        self._positions[:, self.length : end] = positions
        self._valid[:, self.length : end] = True if valid is None else valid
        self.length = end

    def update(
        self,
        layer: int,
        k: Float[Tensor, "b g n d"],
        v: Float[Tensor, "b g n dv"],
        content: Content | None = None,
    ) -> tuple[Float[Tensor, "b g m d"], Float[Tensor, "b g m dv"]]:
        """Store content(k) and v of the announced tokens; return a layer's keys and values so far.

        k are raw keys. Without a content they are stored and returned as they are; with
        `rule.content` the keys returned are for `rule.of_content()`.
        Raises ValueError unless exactly the announced tokens are given, in the shape and dtype of
        those before them, and with the same content: a magnitude can not be taken back.
        """
        if isinstance(layer, bool) or not isinstance(layer, int) or not 0 <= layer < self.layers:
            raise ValueError(f"layer is {layer!r}; the cache has layers 0 to {self.layers - 1}")
        for name, x, stored in (("k", k, self._keys[layer]), ("v", v, self._values[layer])):
            self._check_vectors(name, x, stored)
        start, end = self._filled[layer], self._filled[layer] + k.shape[2]
        if end != self.length or k.shape[2] != v.shape[2]:
            raise ValueError(
                f"layer {layer} holds {start} tokens and is given {k.shape[2]} keys and "
                f"{v.shape[2]} values, but {self.length} were announced by advance"
            )
        content = Content() if content is None else content
        if self._content is None:
            self._content = content
        elif self._content != content:
            raise ValueError(
                f"the cache holds {self._content}, and this rule reads {content}: fill a new cache "
                "under this rule"
            )
        k = content(k)
        keys = self._keys[layer]
        values = self._values[layer]
        if keys is None or values is None:
            keys = k.new_empty(*k.shape[:2], self.capacity, k.shape[3])
            values = v.new_empty(*v.shape[:2], self.capacity, v.shape[3])
            self._keys[layer], self._values[layer] = keys, values
        keys[:, :, start:end] = k
        values[:, :, start:end] = v
        self._filled[layer] = end
        return keys[:, :, :end], values[:, :, :end]

    def crop(self, length: int) -> None:
        """Forget all tokens from index `length` on (a rejected draft, a shorter prefix)."""
        if whole_number("length", length, least=0) > self.length:
            raise ValueError(f"length is {length}; the cache holds {self.length} tokens")
        self.length = length
        self._filled = [min(filled, length) for filled in self._filled]

    def reindex(self, positions: Int[Tensor, "#b n"]) -> None:
        """Give every cached token a new position: possible because keys are not rotated.

        Shapes: (batch or 1, length) int64. After evicting or reordering, or to close a gap.
        """
        _check("positions", positions, torch.int64)
        if self._positions is None:
            raise ValueError("the cache is empty: there is nothing to re-index yet")
        rows = self._positions.shape[0]
        if positions.shape[1] != self.length or positions.shape[0] not in (1, rows):
            raise ValueError(
                f"positions has shape {tuple(positions.shape)}; the cache holds {rows} rows of "
                f"{self.length} tokens"
            )
        self._positions[:, : self.length] = positions
        self._first = None

    def keep(self, tokens: Int[Tensor, " m"]) -> None:
        """Keep only the tokens at these indices, each once, in this order (eviction)."""
        _check("tokens", tokens, torch.int64, axes=1)
        if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < self.length:
            raise ValueError(f"tokens holds an index outside the {self.length} cached tokens")
        # A token kept twice would count twice in every later softmax.
        if tokens.unique().numel() != tokens.numel():
            raise ValueError(f"tokens is {tokens.tolist()}; give each index once")
        count = tokens.shape[0]
        for store in (self._keys, self._values):
            for tensor in store:
                if tensor is not None:
                    tensor[:, :, :count] = tensor[:, :, tokens]
        for row in (self._positions, self._valid):
            if row is not None:
                row[:, :count] = row[:, tokens]
        self._first = None
        self.crop(count)

    def select(self, rows: Int[Tensor, " r"]) -> None:
        """Keep these batch rows, in this order, repeats allowed (beam search)."""
        _check("rows", rows, torch.int64, axes=1)
        batch = 0 if self._positions is None else self._positions.shape[0]
        if not rows.numel() or not 0 <= int(rows.min()) <= int(rows.max()) < batch:
            raise ValueError(f"rows is {rows.tolist()}; give numbers of the {batch} cached rows")
        for store in (self._keys, self._values):
            for index, tensor in enumerate(store):
                store[index] = None if tensor is None else tensor[rows]
        if self._positions is not None and self._valid is not None:
            self._positions, self._valid = self._positions[rows], self._valid[rows]
        if isinstance(self._first, Tensor):
            self._first = self._first[rows]

    def _check_vectors(self, name: str, x: Tensor, stored: Tensor | None) -> None:
        if not isinstance(x, Tensor) or x.dim() != 4:
            raise ValueError(f"{name} is {kind_of(x)}; give (batch, kv_heads, n, channels)")
        batch = x.shape[0] if self._positions is None else self._positions.shape[0]
        if x.shape[0] != batch:
            raise ValueError(f"{name} has {x.shape[0]} rows; {batch} were announced by advance")
        if stored is None:
            return
        sizes = (x.shape[1], x.shape[3], x.dtype)
        if sizes != (stored.shape[1], stored.shape[3], stored.dtype):
            raise ValueError(
                f"{name} has {sizes[0]} heads of {sizes[1]} channels in {sizes[2]}; the cache "
                f"holds {stored.shape[1]} of {stored.shape[3]} in {stored.dtype}"
            )

    def _filled_part(self, tensor: Tensor | None) -> Tensor:
        if tensor is None:
            raise ValueError("the cache is empty: nothing has been appended yet")
        return tensor[:, : self.length]


def _check(name: str, value: Tensor, dtype: torch.dtype, axes: int = 2) -> None:
    if not isinstance(value, Tensor) or value.dtype != dtype or value.dim() != axes:
        shape = "(batch, n)" if axes == 2 else "(m,)"
        raise TypeError(f"{name} is {kind_of(value)}; give {shape} {dtype}")
