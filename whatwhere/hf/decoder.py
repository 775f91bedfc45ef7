"""The decoder of the studies, with any encoding, as a Hugging Face model.

    model = DecoderForCausalLM.from_decoder(decoder, tokenizer)
    model.decoder.use("pope+yarn", factor=4)
    model.save_pretrained("folder")
    AutoModelForCausalLM.from_pretrained("folder")        # after `import whatwhere.hf`

`model.decoder` is the `whatwhere.nn.Decoder` itself: the same parameters, the same logits.
"""

from __future__ import annotations

from typing import Any, Self, cast

from jaxtyping import Int
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationMixin,
    PreTrainedModel,
)
from transformers.modeling_outputs import CausalLMOutputWithPast

from whatwhere.encodings import Context, build, parse
from whatwhere.errors import kind_of
from whatwhere.hf.decoder_cache import DecoderCache
from whatwhere.hf.decoder_config import DecoderModelConfig
from whatwhere.hf.decoder_inputs import (
    LOSS,
    cache_of,
    check_arguments,
    kept,
    tokenizer_of,
    valid_of,
)
from whatwhere.nn import Decoder

__all__ = ["DecoderForCausalLM"]


class DecoderForCausalLM(PreTrainedModel, GenerationMixin):
    """A `whatwhere.nn.Decoder` that transformers can call, save, load and generate with.

    model(input_ids, attention_mask) -> logits, (b, n) -> (b, n, vocab_size), bit for bit those of
    `model.decoder`. Left padding goes by `attention_mask`, as everywhere in transformers.
    """

    config_class = DecoderModelConfig
    main_input_name = "input_ids"
    _tied_weights_keys = {"decoder.head.weight": "decoder.embedding.weight"}  # noqa: RUF012

    config: DecoderModelConfig

    def __init__(self, config: DecoderModelConfig, decoder: Decoder | None = None) -> None:
        sizes = config.decoder_config()
        super().__init__(config)
        self.decoder = Decoder(sizes) if decoder is None else decoder
        if decoder is None and config.encoding is not None:
            self.decoder.use(config.encoding, config.factor)
        self.tokenizer: Any = None
        self.post_init()

    @classmethod
    def from_decoder(cls, decoder: Decoder, tokenizer: Any = None) -> Self:
        """A model around a decoder, whose parameters it shares.

        `tokenizer` (of transformers, or a `tokenizers.Tokenizer`) is saved with the model, and
        gives it the tokens that begin, end and pad.
        Raises TypeError for what is no decoder, ValueError for a tokenizer with more tokens.
        """
        if not isinstance(decoder, Decoder):
            raise TypeError(f"decoder is {kind_of(decoder)}; give a whatwhere.nn.Decoder")
        encoding, factor = decoder.used
        config = DecoderModelConfig(
            sizes=decoder.config.to_dict(),
            encoding=encoding,
            factor=factor,
            dtype=decoder.embedding.weight.dtype,
        )
        model = cls(config, decoder).train(decoder.training)
        if tokenizer is not None:
            model._adopt(tokenizer)
        return model

    @classmethod
    def from_pretrained(cls, *arguments: Any, **options: Any) -> Any:
        """As transformers', but weights that are missing are an error, not noise.

        Raises ValueError that names them.
        """
        told = options.pop("output_loading_info", False)
        loaded = super().from_pretrained(*arguments, output_loading_info=True, **options)
        model, info = cast("tuple[Self, dict[str, Any]]", loaded)
        if info["missing_keys"]:
            raise ValueError(f"the checkpoint lacks {', '.join(sorted(info['missing_keys']))}")
        model._restore()
        return (model, info) if told else model

    def save_pretrained(self, save_directory: Any, *arguments: Any, **options: Any) -> None:
        """As transformers'; the encoding in use goes into the config, the tokenizer beside it."""
        self._tell()
        super().save_pretrained(save_directory, *arguments, **options)
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(save_directory)

    def forward(
        self,
        input_ids: Int[Tensor, "b n"],
        attention_mask: Tensor | None = None,
        position_ids: Int[Tensor, "#b n"] | None = None,
        past_key_values: DecoderCache | None = None,
        labels: Int[Tensor, "b n"] | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        return_dict: bool | None = None,
        **arguments: Any,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Logits of the next token, and the loss if there are labels.

        Args:
            attention_mask: (b, cached + n), 0 at padding.
            position_ids: default: counting real tokens from 0.
            labels: (b, n), the tokens themselves (they are shifted here), -100 where none counts.
            use_cache: make a cache if none is given. It is not made unasked: a pass without one
                has the decoder's own bits and no second copy of the keys.
            logits_to_keep: compute the last so many only (0: all), or those at these indices.
        """
        check_arguments(arguments)
        if labels is not None and not (isinstance(logits_to_keep, int) and logits_to_keep == 0):
            raise ValueError(f"labels with logits_to_keep={logits_to_keep}: leave one of them out")
        cache = cache_of(past_key_values, use_cache, self.decoder.config.layers)
        valid = valid_of(attention_mask, input_ids, 0 if cache is None else cache.tokens.length)
        hidden = self.decoder.hidden(
            input_ids,
            positions=position_ids,
            valid=valid,
            cache=None if cache is None else cache.tokens,
        )
        logits = self.decoder.head(kept(hidden, logits_to_keep))
        loss = None
        if labels is not None:
            known = {k: v for k, v in arguments.items() if k in LOSS}
            loss = cast("Any", self.loss_function)(
                logits=logits, labels=labels, vocab_size=self.decoder.config.vocab_size, **known
            )
        output = CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=cache)  # type: ignore[arg-type]
        return output.to_tuple() if return_dict is False else output

    def get_input_embeddings(self) -> nn.Module:
        return self.decoder.embedding

    def get_output_embeddings(self) -> nn.Module:
        return self.decoder.head

    def resize_token_embeddings(self, *arguments: Any, **options: Any) -> nn.Embedding:
        """Refused with ValueError: the vocabulary is one of the decoder's sizes."""
        raise ValueError(
            f"the decoder was built for {self.decoder.config.vocab_size} tokens; train one with "
            "another vocab_size"
        )

    def _init_weights(self, module: nn.Module) -> None:
        del module  # the decoder has initialized itself

    def _prepare_position_ids_for_generation(self, *_: Any, **__: Any) -> None:
        """None: the decoder counts real tokens itself, and then knows that they follow."""

    def _prepare_cache_for_generation(
        self,
        generation_config: Any,
        model_kwargs: dict[str, Any],
        generation_mode: Any,
        batch_size: int,
        max_cache_length: int,
    ) -> Any:
        """The cache of a `generate`, with room for all it may bring."""
        del generation_mode, batch_size
        kind = generation_config.cache_implementation
        if kind not in (None, "dynamic"):
            raise ValueError(f"cache_implementation is {kind!r}; this model has a cache of its own")
        if model_kwargs.get("past_key_values") is not None:
            cache_of(model_kwargs["past_key_values"], True, self.decoder.config.layers)
            model_kwargs["past_key_values"]._is_user_defined = True
        elif generation_config.use_cache is not False:
            room = max(1, max_cache_length)
            model_kwargs["past_key_values"] = DecoderCache(self.decoder.config.layers, room)

    def _adopt(self, tokenizer: Any) -> None:
        tokenizer = tokenizer_of(tokenizer, self.decoder.config.vocab_size)
        tokenizer.model_max_length = self.config.max_position_embeddings
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            setattr(self.generation_config, name, getattr(tokenizer, name))
        self.tokenizer = tokenizer

    def _tell(self) -> None:
        """Write what `decoder.use` was given into the config."""
        config, before = self.config, (self.config.encoding, self.config.factor)
        if before == self.decoder.used:
            return
        config.encoding, config.factor = self.decoder.used
        length = self.decoder.config.train_length
        if config.max_position_embeddings == int(length * (before[1] or 1)):
            config.max_position_embeddings = int(length * (config.factor or 1))

    def _restore(self) -> None:
        """Make anew what no checkpoint holds: transformers loads into a model without tensors, and
        leaves its buffers unwritten."""
        sizes = self.decoder.config
        context = Context(sizes.train_length, None, sizes.max_length)
        for encoding in self.decoder.trained:
            fresh = build(parse(sizes.encoding).trained, sizes.shape, context)
            saved = fresh.state_dict()
            for name, buffer in fresh.named_buffers():
                if name not in saved:
                    place, _, own = name.rpartition(".")
                    setattr(encoding.get_submodule(place), own, buffer.to(self.decoder.device))
        self.decoder.use(*self.decoder.used)


AutoConfig.register(DecoderModelConfig.model_type, DecoderModelConfig)
AutoModelForCausalLM.register(DecoderModelConfig, DecoderForCausalLM)
