"""A Llama-shaped decoder whose attention takes any encoding.

Pre-norm blocks: RMSNorm, grouped-query attention, RMSNorm, SwiGLU or GELU. The only unusual part is
that nothing is rotated here: queries and keys go raw to `attend`, and the cache holds the keys'
content, which `rule.of_content()` reads.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from whatwhere import positions as at
from whatwhere.attention import Where, attend
from whatwhere.cache import KVCache
from whatwhere.encodings import Context, Encoding, Expression, build, modify, parse
from whatwhere.errors import whole_number
from whatwhere.nn.checks import check_call
from whatwhere.nn.config import DecoderConfig
from whatwhere.nn.generate import generate
from whatwhere.rule import ScoreRule

__all__ = ["Decoder"]

_STD = 0.02  # of all weights, the token embeddings among them


class Attention(nn.Module):
    """Grouped-query attention under a rule that the caller passes."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        d, groups = config.channels, config.shape.groups
        self.heads, self.groups, self.dropout = config.heads, groups, config.dropout
        self.q = nn.Linear(config.width, config.heads * d, bias=False)
        self.k = nn.Linear(config.width, groups * d, bias=False)
        self.v = nn.Linear(config.width, groups * d, bias=False)
        self.out = nn.Linear(config.heads * d, config.width, bias=False)
        self.q_norm = nn.RMSNorm(d, eps=1e-6) if config.qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(d, eps=1e-6) if config.qk_norm else nn.Identity()

    def forward(
        self,
        x: Float[Tensor, "b n width"],
        rule: ScoreRule,
        where: Where,
        cache: KVCache | None,
        layer: int,
    ) -> Float[Tensor, "b n width"]:
        q = self.q_norm(self.q(x).unflatten(-1, (self.heads, -1))).transpose(1, 2)
        k = self.k_norm(self.k(x).unflatten(-1, (self.groups, -1))).transpose(1, 2)
        v = self.v(x).unflatten(-1, (self.groups, -1)).transpose(1, 2)
        if cache is not None:
            k, v = cache.update(layer, k, v, rule.content)
            rule = rule.of_content()
        dropout = self.dropout if self.training else 0.0
        return self.out(
            attend(q, k, v, rule, where=where, dropout=dropout).transpose(1, 2).flatten(2)
        )


class MLP(nn.Module):
    """SwiGLU: out(silu(gate(x)) · up(x)), or GELU: out(gelu(up(x)))."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        gated = config.activation == "swiglu"
        self.gate = nn.Linear(config.width, config.units, bias=False) if gated else None
        self.up = nn.Linear(config.width, config.units, bias=False)
        self.out = nn.Linear(config.units, config.width, bias=False)

    def forward(self, x: Float[Tensor, "b n width"]) -> Float[Tensor, "b n width"]:
        if self.gate is None:
            return self.out(F.gelu(self.up(x)))
        return self.out(F.silu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.width, eps=1e-6)
        self.attention = Attention(config)
        self.mlp_norm = nn.RMSNorm(config.width, eps=1e-6)
        self.mlp = MLP(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Float[Tensor, "b n width"],
        rule: ScoreRule,
        where: Where,
        cache: KVCache | None,
        layer: int,
    ) -> Float[Tensor, "b n width"]:
        attended = self.attention(self.attention_norm(x), rule, where, cache, layer)
        x = x + self.dropout(attended)
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


class Decoder(nn.Module):
    """Token numbers in, logits of the next token out.

    model(tokens) -> logits, (b, n) int64 -> (b, n, vocab_size). Causal always.
    Encodings with parameters of their own per layer (PoPE's δ, Shaw's tables) get one instance a
    layer, the others one for the model. `use(expression)` changes the encoding at evaluation
    without touching a parameter.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.layers)])
        self.norm = nn.RMSNorm(config.width, eps=1e-6)
        self.head = nn.Linear(config.width, config.vocab_size, bias=False)
        if config.tie_embeddings:
            self.head.weight = self.embedding.weight
        first = self._build()
        rest = [self._build() for _ in range(config.layers - 1)] if first.per_layer else []
        self.encodings = nn.ModuleList([first, *rest])
        self._active: list[Encoding] = []
        self.used: tuple[str, float | None] = (config.encoding, None)
        self.reset_parameters()
        self.use(config.encoding)

    def reset_parameters(self) -> None:
        """Normal weights of standard deviation 0.02, those that end a residual branch smaller.

        The encoding's own parameters come last, so that after `torch.manual_seed(seed)` every
        encoding gives the same weights everywhere else.
        """
        for module in (self.embedding, self.head, *self.blocks.modules()):
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=_STD)
        for block in self.blocks:
            assert isinstance(block, Block)
            for last in (block.attention.out, block.mlp.out):
                nn.init.normal_(last.weight, std=_STD / math.sqrt(2 * self.config.layers))
        for encoding in self.trained:
            encoding.reset_parameters()

    @property
    def trained(self) -> list[Encoding]:
        """The encodings that hold parameters: one for the model, or one a layer."""
        return cast(list[Encoding], list(self.encodings))

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return self.embedding.weight.device

    @property
    def active(self) -> list[Encoding]:
        """The encodings in use: one for the model, or one a layer."""
        return self._active

    def use(self, expression: str | Expression, factor: float | None = None) -> None:
        """Use an expression from now on; its part before the first "+" must be the trained one.

        `factor` (target length / training length) is the default of modifiers that need one.
        Raises ValueError if the expression starts with another encoding than the model has.
        """
        parsed = expression if isinstance(expression, Expression) else parse(expression)
        trained = parse(self.config.encoding).trained
        if parsed.trained != trained:
            raise ValueError(
                f"this model has the parameters of {trained!r}; it can not become {parsed.text!r}"
            )
        context = Context(self.config.train_length, factor, self.config.max_length)
        self._active = [
            modify(encoding, parsed.modifiers, context).to(self.device) for encoding in self.trained
        ]
        self.used = (parsed.text, factor)

    def forward(
        self,
        tokens: Int[Tensor, "b n"],
        positions: Int[Tensor, "#b n"] | None = None,
        documents: Int[Tensor, "#b n"] | None = None,
        valid: Bool[Tensor, "b n"] | None = None,
        cache: KVCache | None = None,
        horizon: int | None = None,
    ) -> Float[Tensor, "b n vocab"]:
        """Logits of the next token at every place.

        Args:
            tokens: (b, n) int64.
            positions: default 0, 1, … (after the cached ones; counting real tokens only with
                `valid`; restarting with `documents`).
            documents: number of the document each token belongs to; no pair crosses documents.
            valid: False at padding (on the left).
            cache: keys and values of earlier calls; the new ones are appended.
            horizon: the length that length-dependent encodings are given; default the number of
                positions in use.
        """
        return self.head(self.hidden(tokens, positions, documents, valid, cache, horizon))

    def hidden(
        self,
        tokens: Int[Tensor, "b n"],
        positions: Int[Tensor, "#b n"] | None = None,
        documents: Int[Tensor, "#b n"] | None = None,
        valid: Bool[Tensor, "b n"] | None = None,
        cache: KVCache | None = None,
        horizon: int | None = None,
    ) -> Float[Tensor, "b n width"]:
        """What the head reads, to be had without the logits of every token; arguments as there."""
        check_call(self.config, tokens, positions, documents, valid, cache)
        if cache is None:
            return self._hidden(tokens, positions, documents, valid, None, horizon)
        before = cache.length
        try:
            return self._hidden(tokens, positions, documents, valid, cache, horizon)
        except Exception:
            cache.crop(before)  # a step that fails leaves no announced tokens behind
            raise

    def _hidden(
        self,
        tokens: Tensor,
        positions: Tensor | None,
        documents: Tensor | None,
        valid: Tensor | None,
        cache: KVCache | None,
        horizon: int | None,
    ) -> Tensor:
        where, place = self._where(tokens, positions, documents, valid, cache)
        horizon = self._horizon(horizon, where)
        rules = [encoding.rule(horizon, training=self.training) for encoding in self._active]
        x = self._active[0].embed(self.embedding(tokens), place)
        for layer, block in enumerate(self.blocks):
            x = block(x, rules[layer % len(rules)], where, cache, layer)
        return self.norm(x)

    def generate(self, prompt: Int[Tensor, "b n"], **options: Any) -> Int[Tensor, "b m"]:
        """Continue a prompt with the cache; see `whatwhere.nn.generate`."""
        return generate(self, prompt, **options)

    def new_cache(self, capacity: int) -> KVCache:
        """An empty cache for this model."""
        return KVCache(self.config.layers, capacity)

    def _build(self) -> Encoding:
        config = self.config
        context = Context(config.train_length, None, config.max_length, _STD)
        return build(parse(config.encoding).trained, config.shape, context)

    def _where(
        self,
        tokens: Tensor,
        positions: Tensor | None,
        documents: Tensor | None,
        valid: Tensor | None,
        cache: KVCache | None,
    ) -> tuple[Where, Tensor]:
        """Positions of the new tokens, and who sees whom among all."""
        batch, n = tokens.shape
        if positions is None and documents is None:
            if cache is not None and (followed := self._follow(tokens, valid, cache)) is not None:
                return followed
            if cache is None and valid is None:
                where = Where(n, n, device=tokens.device)
                return where, where.q_pos
        if positions is None:
            positions = _default_positions(tokens, documents, valid, cache)
        positions = positions[None] if positions.dim() == 1 else positions
        if cache is None:
            where = Where(
                n,
                n,
                positions,
                positions,
                q_documents=documents,
                k_documents=documents,
                k_valid=valid,
            )
            return where, where.q_pos
        cache.advance(positions.expand(batch, n), valid)
        known = cache.valid if cache.padded else None
        return Where(n, cache.length, positions, cache.positions, k_valid=known), positions

    def _follow(
        self, tokens: Tensor, valid: Tensor | None, cache: KVCache
    ) -> tuple[Where, Tensor] | None:
        """`_where` of tokens known to follow the cached ones one by one, else None."""
        batch, n = tokens.shape
        if cache.length:
            if valid is not None or cache.first is None:
                return None
            positions = cache.follow(n)
        elif valid is None:
            positions = cache.follow(n, batch=batch, device=tokens.device)
            where = Where(n, n, device=tokens.device)
            return where, where.q_pos
        elif torch.compiler.is_compiling() or not _left_padded(valid):
            return None
        else:
            positions = cache.follow(n, first=-(~valid).sum(dim=-1)).clamp(min=0)
        return Where(n, cache.length, positions, k_first=cache.first), positions

    def _horizon(self, horizon: int | None, where: Where) -> int:
        if horizon is not None:
            return whole_number("horizon", horizon)
        if where.contiguous or not any(encoding.length_dependent for encoding in self._active):
            return where.keys
        if isinstance(where.k_first, int):
            return where.k_first + where.keys
        # Packed documents, padding and evicted tokens: the number of keys is not the length.
        return int(where.k_pos.max()) + 1

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]
        super()._apply(fn, recurse)
        for encoding in getattr(self, "_active", ()):
            encoding._apply(fn)
        return self


def _left_padded(valid: Tensor) -> bool:
    """Whether nothing but the left is padding. Reads the tensor: once, when a cache begins."""
    return bool((valid[:, 1:] | ~valid[:, :-1]).all())


def _default_positions(
    tokens: Tensor, documents: Tensor | None, valid: Tensor | None, cache: KVCache | None
) -> Tensor:
    if documents is not None:
        return at.from_documents(documents)
    if cache is None or cache.length == 0:
        assert valid is not None
        return at.left_padded(valid)
    # A row goes on after its last real token, wherever padding put that.
    last = cache.positions.masked_fill(~cache.valid, -1).amax(dim=-1, keepdim=True)
    steps = torch.ones_like(tokens) if valid is None else valid.to(torch.int64)
    return (last + steps.cumsum(dim=-1)).clamp(min=0)
