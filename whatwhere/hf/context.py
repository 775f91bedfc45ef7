"""One forward pass: where its tokens stand, and what is known of the tokens in the cache.

transformers caches keys in the order in which tokens came, evicts them in layers with a window and
keeps empty slots in static caches; it never stores positions. `Record` does, beside the cache,
by the token's index: the mask function says which index stands in which column (mask.py).
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from whatwhere.attention import Where
from whatwhere.rule import ScoreRule

__all__ = ["Context", "Record", "context_of", "remember", "tokens_of"]

_ATTRIBUTE = "_whatwhere_positions"


class Record:
    """Position of every token whose keys a cache holds, by token index.

    A dynamic cache's record grows: positions (rows, tokens). A static cache's is a ring of fixed
    size and address, positions (rows, size) at index mod size, written in place.
    """

    def __init__(self, positions: Tensor, ring: bool, packed: bool = False) -> None:
        self.positions, self.ring, self.packed = positions, ring, packed

    def at(self, index: Int[Tensor, "r n"]) -> Int[Tensor, "s n"]:
        """Positions of the tokens with these indices."""
        size = self.positions.shape[1]
        index = index.remainder(size) if self.ring else index.clamp(0, max(0, size - 1))
        return _gather(self.positions, index)


class Context:
    """What attention needs to know about one forward pass, made before its first layer.

    positions: (1 or batch, n) of the present tokens, or None for 0, 1, …; start: index of the
    first present token, an int, or a tensor for static caches. It travels with the arguments of
    the layers, so that a checkpointed layer that runs again reads its own pass.
    """

    def __init__(
        self,
        encodings: Any,
        backend: str,
        positions: Tensor | None,
        documents: Tensor | None = None,
        record: Record | None = None,
        start: Any = 0,
        horizon: int | None = None,
    ) -> None:
        self.encodings, self.backend = encodings, backend
        self.positions, self.documents = positions, documents
        self.record, self.start, self.horizon = record, start, horizon
        self._wheres: dict[Any, Where] = {}
        self._rules: dict[int, ScoreRule] = {}

    def rule(self, layer: int, training: bool) -> ScoreRule:
        """The rule of a layer; computed once where the encoding has no parameters."""
        number = self.encodings.number_of(layer)
        if number in self._rules:
            return self._rules[number]
        encoding, fixed = self.encodings.encoding(number)
        rule = encoding.rule(self.horizon, training=training)
        if fixed:
            self._rules[number] = rule
        return rule

    def where(
        self, index: Tensor | None, queries: int, keys: int, window: int | None, device: Any
    ) -> Where:
        """Positions and visibility for layers with this window, made once.

        index: token index of every key, (rows, keys), -1 where there is none to see; None if key
        c is token c and all are real.
        """
        key = (window, device)
        if key not in self._wheres:
            self._wheres[key] = self._where(index, queries, keys, window, device)
        return self._wheres[key]

    def _where(
        self, index: Tensor | None, queries: int, keys: int, window: int | None, device: Any
    ) -> Where:
        if index is None and self.positions is None and self.record is None and queries == keys:
            return Where(queries, keys, window=window, device=device)
        q_pos = self.positions
        if q_pos is None:
            q_pos = torch.arange(queries, device=device)[None] + self.start
        q_pos = q_pos.to(device)
        every = torch.arange(keys, device=device)[None] if index is None else index.to(device)
        return Where(
            queries,
            keys,
            q_pos=q_pos,
            k_pos=self._positions_of(every, q_pos),
            window=window,
            q_documents=self.documents,
            k_documents=self.documents,
            k_valid=None if index is None else every >= 0,
            device=device,
        )

    def _positions_of(self, index: Tensor, q_pos: Tensor) -> Tensor:
        """Positions by token index: of present tokens, and of those before from the record."""
        now = index - self.start
        present = _gather(q_pos, now.clamp(0, q_pos.shape[1] - 1))
        if self.record is None:
            return present
        return torch.where(now >= 0, present, self.record.at(index).to(index.device))


def context_of(encodings: Any, backend: str, arguments: dict[str, Any]) -> Context:
    """The context of a decoder's forward pass, from the arguments it is called with.

    Raises ValueError for a cache whose keys were rotated before they were stored, and for
    positions that start anew inside a row with a mask or a cache.
    """
    positions, mask = arguments.get("position_ids"), arguments.get("attention_mask")
    cache = arguments.get("past_key_values")
    tokens = tokens_of(arguments)
    start, record = (0, None) if cache is None else _cached(cache, tokens)
    documents = None
    if positions is not None:
        positions = _two_axes(positions)
        if record is None:  # nothing came before
            documents = _documents(positions, mask)
            if documents is None and _counts_from_zero(positions):
                positions = None
    horizon = _horizon(positions, start, tokens.shape[1]) if encodings.length_dependent else None
    return Context(encodings, backend, positions, documents, record, start, horizon)


def tokens_of(arguments: dict[str, Any]) -> Tensor:
    """The present tokens, (batch, n) or embedded (batch, n, width)."""
    tokens = arguments.get("input_ids")
    tokens = arguments.get("inputs_embeds") if tokens is None else tokens
    if tokens is None:
        raise ValueError("input_ids and inputs_embeds are missing; give one of them")
    return tokens


def remember(context: Context, cache: Any, present: int, device: Any) -> None:
    """Keep the positions of the present tokens with the cache that now holds their keys."""
    if cache is None:
        return
    positions, record = context.positions, context.record
    if positions is None:
        positions = torch.arange(present, device=device)[None] + context.start
    if record is not None and record.ring:
        _write(record.positions, positions, context.start)
        return
    if record is not None:
        before = record.positions[:, : context.start]
        rows = max(before.shape[0], positions.shape[0])
        positions = torch.cat((before.expand(rows, -1), positions.expand(rows, -1)), dim=1)
    setattr(cache, _ATTRIBUTE, Record(positions, False, context.documents is not None))


def _write(ring: Int[Tensor, "b size"], positions: Int[Tensor, "#b n"], start: Any) -> None:
    """Positions of tokens start, start + 1, … into the ring, each at its index mod size.

    Every slot chooses what it holds. `ring[:, slots] = …` computes the same, but fails in a CUDA
    graph where `start` is a symbol (a cache of windows only counts in Python): Inductor 2.11 to
    2.13 forgets the symbols of an index that is written to ("name 's82' is not defined").
    """
    size, present = ring.shape[1], positions.shape[1]
    kept = min(size, present)
    turn = torch.arange(size, device=ring.device) - (start + (present - kept))
    turn = turn.remainder(size)[None]  # which of the last `kept` tokens stands in a slot
    latest = _gather(positions[:, present - kept :], turn.clamp(max=kept - 1))
    ring.copy_(torch.where(turn < kept, latest, ring))


def _cached(cache: Any, tokens: Tensor) -> tuple[Any, Record | None]:
    """Index of the first present token, and the record of those before (None: there are none)."""
    record = getattr(cache, _ATTRIBUTE, None)
    # Layers with a window count in Python, the others of a static cache on the device.
    full = [number for number, slides in enumerate(cache.is_sliding) if not slides]
    start = cache.get_seq_length(full[0] if full else 0)
    empty = isinstance(start, int) and start == 0
    if record is None and not empty:
        raise ValueError(
            "past_key_values was filled before hf.use: its keys are rotated already; start anew "
            "with an empty cache"
        )
    if cache.is_compileable:
        if record is None:
            record = _ring(cache, tokens)
            setattr(cache, _ATTRIBUTE, record)
        # The layers add to the counter itself while they run.
        start = start.clone() if isinstance(start, Tensor) else start
    elif empty:
        return start, None
    if record is not None and record.packed:
        raise ValueError(
            "past_key_values holds several documents (position_ids started anew), and a cache "
            "does not say to which of them the next token belongs; pass use_cache=False"
        )
    if record is not None and record.positions.shape[0] not in (1, tokens.shape[0]):
        raise ValueError(
            f"past_key_values was filled by {record.positions.shape[0]} rows, and this call has "
            f"{tokens.shape[0]}: rows can be reordered, but not repeated or selected"
        )
    return start, record


def _ring(cache: Any, tokens: Tensor) -> Record:
    size = max(layer.max_cache_len for layer in cache.layers)
    positions = torch.zeros(tokens.shape[0], size, dtype=torch.int64, device=tokens.device)
    if not torch.compiler.is_compiling():
        torch._dynamo.mark_static_address(positions)  # pyright: ignore[reportPrivateUsage]
    return Record(positions, True)


def _two_axes(positions: Tensor) -> Tensor:
    if positions.dim() == 1:
        positions = positions[None]
    if positions.dim() != 2:
        raise ValueError(
            f"position_ids has shape {tuple(positions.shape)}; give (batch, n): positions with "
            "several axes are not covered"
        )
    return positions.to(torch.int64)


def _documents(positions: Tensor, mask: Any) -> Tensor | None:
    """Document numbers where positions start anew, as transformers finds packed sequences."""
    compiling = torch.compiler.is_compiling()
    breaks = torch.diff(positions, dim=1) != 1
    if mask is not None:
        if not compiling and isinstance(mask, Tensor) and mask.dim() == 2:
            real = mask.to(device=positions.device, dtype=torch.bool)[:, -positions.shape[1] :]
            if bool((breaks & real[:, 1:] & real[:, :-1]).any()):
                raise ValueError(
                    "position_ids start anew inside a row, and attention_mask is given: drop the "
                    "mask, and each run of positions is taken for a document of its own"
                )
        return None
    if not compiling and not bool(breaks.any()):
        return None
    return torch.nn.functional.pad(breaks.cumsum(dim=1), (1, 0))


def _counts_from_zero(positions: Tensor) -> bool:
    if torch.compiler.is_compiling():
        return False
    count = torch.arange(positions.shape[1], device=positions.device)
    return bool((positions == count).all())


def _read_horizon(positions: Tensor | None, start: Any, present: int) -> int:
    """Length of the text so far: the largest position and one more. Read from the device."""
    if positions is None:
        return int(start) + present
    return int(positions.max()) + 1


# A number that the spectrum computes with can not be part of a compiled graph.
_horizon: Any = torch.compiler.disable(_read_horizon)


def _gather(table: Tensor, index: Tensor) -> Tensor:
    rows = max(table.shape[0], index.shape[0])
    return table.expand(rows, -1).gather(1, index.expand(rows, -1))
