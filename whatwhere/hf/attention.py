"""What transformers calls: one attention function, one mask function, one rotary module.

Nothing of transformers' own code is replaced. The rotary module returns cosine 1 and sine 0, so
that queries and keys reach the cache as they come from their projections; the attention function
then turns them as the rule says.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from whatwhere.attention import Unsupported, attend
from whatwhere.encodings import Encoding
from whatwhere.hf.context import Context
from whatwhere.hf.softcap import capped

__all__ = ["ARGUMENT", "NAME", "WAITING", "Turned", "Unturned", "register"]

#: The name that `config._attn_implementation` gets.
NAME = "whatwhere"

#: The keyword argument by which a context travels from the decoder to the attention function.
ARGUMENT = "whatwhere"

#: Where a context waits for the rotary module, for decoders that drop that argument.
WAITING = "waiting_context"

_SINKS = ("s_aux", "sinks", "position_bias", "head_mask")


def register() -> None:
    """Enter both functions in transformers' tables; again is harmless."""
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, token_index)


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    sliding_window: int | None = None,
    **arguments: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: q, k (b, h, n, d) un-rotated -> (b, n, h, dv).

    Raises Unsupported for what no score rule says (sinks, a mask of one's own), RuntimeError where
    the decoder's context did not arrive.
    """
    context = arguments.pop(ARGUMENT, None)
    if not isinstance(context, Context):
        raise RuntimeError(
            f"{type(module).__name__} was called on its own: hf.use hands positions over where "
            "the whole decoder is called"
        )
    for name in _SINKS:
        if arguments.get(name) is not None:
            raise Unsupported(f"{type(module).__name__} passes {name}, which no score rule has")
    if arguments.get("output_attentions"):
        raise Unsupported("attention weights are never whole in memory; undo, and use eager")
    layer: Any = module.layer_idx
    rule = capped(context.rule(layer, module.training), softcap)
    queries, keys = query.shape[2], key.shape[2]
    index = _index(attention_mask, keys)
    where = context.where(index, queries, keys, sliding_window, query.device)
    query, key, value = _one_dtype(query, key, value)
    out = attend(
        query,
        key,
        value,
        rule,
        where=where,
        scale=scaling,
        dropout=dropout,
        backend=context.backend,
    )
    return out.transpose(1, 2).contiguous(), None


def token_index(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: Any = 0,
    kv_offset: Any = 0,
    attention_mask: Tensor | None = None,
    use_vmap: bool = False,
    device: Any = None,
    **arguments: Any,
) -> Tensor | None:
    """transformers' mask interface: which token stands in which column, (1 or batch, 1, 1, keys).

    -1 stands for padding and for slots that are still empty; None for 0, 1, …, keys - 1, all real.
    Causality, windows and documents follow from positions (`Where`), not from a mask.
    Raises Unsupported for overlays (bidirectional image tokens and the like).
    """
    del batch_size, arguments
    if use_vmap:
        raise Unsupported("a mask function laid over causality has no form as positions")
    mask = attention_mask
    if mask is not None and q_length > 1 and not torch.compiler.is_compiling() and bool(mask.all()):
        mask = None
    grown = isinstance(q_offset, int) and kv_length + kv_offset == q_offset + q_length
    if mask is None and grown and kv_offset == 0:
        return None
    index = torch.arange(kv_length, device=device) + kv_offset
    if not grown:
        index = torch.where(index < q_offset + q_length, index, -1)
    index = index[None]
    if mask is not None:
        mask = mask.to(device=device, dtype=torch.bool)
        missing = kv_length + kv_offset - mask.shape[-1]
        if missing > 0:
            mask = torch.nn.functional.pad(mask, (0, missing))
        index = torch.where(mask[:, kv_offset : kv_offset + kv_length], index, -1)
    return index[:, None, None, :]


class Turned(tuple[Tensor, ...]):
    """Cosine and sine that carry a context: decoders hand them to every attention module."""

    context: Context


class Unturned(nn.Module):
    """Stands in the place of a rotary module: cosine 1, sine 0. Holds the encodings.

    encodings: the different ones; numbers: which of them each layer has.
    """

    def __init__(self, encodings: list[Encoding], numbers: list[int], width: int, config: Any):
        super().__init__()
        self.encodings = nn.ModuleList(encodings)
        self.numbers, self.width, self.config = numbers, width, config
        self.length_dependent = any(each.length_dependent for each in encodings)
        self._fixed = [not any(True for _ in each.parameters()) for each in encodings]
        setattr(self, WAITING, None)

    def number_of(self, layer: int) -> int:
        """Which of the encodings a layer has."""
        return self.numbers[layer]

    def encoding(self, number: int) -> tuple[Encoding, bool]:
        """That encoding, and whether it has no parameters."""
        encoding = self.encodings[number]
        assert isinstance(encoding, Encoding)
        return encoding, self._fixed[number]

    def forward(
        self, x: Tensor, position_ids: Tensor, layer_type: str | None = None
    ) -> tuple[Tensor, ...]:
        """Cosine and sine of the identity, (1, n, rotated channels), in x's dtype."""
        del layer_type
        if self.config._attn_implementation != NAME:
            raise RuntimeError(
                f"the attention implementation was set to {self.config._attn_implementation!r} "
                "while hf.use is in force: its vectors are not turned. Call hf.undo first"
            )
        shape = (1, position_ids.shape[-1], self.width)
        identity = (x.new_ones(shape), x.new_zeros(shape))
        # Plain attributes: torch 2.11's dynamo breaks the graph at `self.__dict__`.
        context = getattr(self, WAITING)
        if context is None:
            return identity
        setattr(self, WAITING, None)
        carrier = Turned(identity)
        carrier.context = context
        return carrier


def _index(mask: Tensor | None, keys: int) -> Tensor | None:
    if mask is None:
        return None
    if not isinstance(mask, Tensor) or mask.dtype != torch.int64 or mask.shape[1:3] != (1, 1):
        shape = tuple(getattr(mask, "shape", ()))
        raise Unsupported(
            f"attention_mask of shape {shape} is a mask of pairs; hf.use takes (batch, tokens), "
            "and position_ids that start anew for packed documents"
        )
    return mask[:, 0, 0, :keys]


def _one_dtype(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One dtype for all three: autocast leaves turned vectors in float32 and values in half."""
    kind = query.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else value.dtype
    return query.to(dtype), key.to(dtype), value.to(dtype)
