"""A Llama-shaped decoder whose attention takes any encoding.

Pre-norm blocks (`blocks.py`): RMSNorm, grouped-query attention, RMSNorm, SwiGLU or GELU. The only
unusual part is that no layer knows a position: each is given the rule, and `Where` (`places.py`).
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from whatwhere.attention import Where
from whatwhere.cache import KVCache
from whatwhere.encodings import Context, Encoding, Expression, build, modify, parse
from whatwhere.errors import whole_number
from whatwhere.nn.blocks import Block
from whatwhere.nn.checks import check_call
from whatwhere.nn.config import DecoderConfig
from whatwhere.nn.generate import generate
from whatwhere.nn.places import where_of

__all__ = ["Decoder"]

_STD = 0.02  # of all weights, the token embeddings among them


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
        where, place = where_of(tokens, positions, documents, valid, cache)
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
