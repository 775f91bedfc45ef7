"""config.json of our decoder as a Hugging Face model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig

from whatwhere.encodings import parse
from whatwhere.nn import DecoderConfig

__all__ = ["DecoderModelConfig"]


class DecoderModelConfig(PreTrainedConfig):
    """config.json of a `DecoderForCausalLM`.

    sizes: `DecoderConfig.to_dict()`, from which the names that transformers knows follow.
    encoding, factor: what `Decoder.use` was given last, so that a model is loaded as it was used.
    max_position_embeddings: the longest text that evaluations should give it (lm-eval cuts there):
    the training length times `factor`, no limit of the model.
    Raises ValueError where a standard name is given and contradicts `sizes`.
    """

    model_type = "whatwhere"

    def __init__(
        self,
        sizes: dict[str, Any] | None = None,
        encoding: str | None = None,
        factor: float | None = None,
        max_position_embeddings: int | None = None,
        **arguments: Any,
    ) -> None:
        self.sizes, self.encoding, self.factor = sizes, encoding, factor
        self.max_position_embeddings = max_position_embeddings
        if sizes is not None:  # transformers makes a config without arguments, to compare with
            known = self.decoder_config()
            self.encoding = known.encoding if encoding is None else encoding
            parse(self.encoding)
            for name, wanted in standard_names(known).items():
                if arguments.setdefault(name, wanted) != wanted:
                    given = arguments[name]
                    raise ValueError(f"{name} is {given}, but the decoder's sizes say {wanted}")
            if max_position_embeddings is None:
                self.max_position_embeddings = int(known.train_length * (factor or 1))
        super().__init__(**arguments)

    def decoder_config(self) -> DecoderConfig:
        """The sizes as `whatwhere.nn` has them. Raises ValueError where there are none."""
        if not isinstance(self.sizes, Mapping):
            raise ValueError(
                f"sizes is {self.sizes!r}; give DecoderConfig.to_dict(), or make the model with "
                "DecoderForCausalLM.from_decoder(decoder)"
            )
        return DecoderConfig.from_dict(self.sizes)


def standard_names(sizes: DecoderConfig) -> dict[str, Any]:
    """The sizes under the names that transformers' tools look for."""
    return {
        "vocab_size": sizes.vocab_size,
        "hidden_size": sizes.width,
        "intermediate_size": sizes.units,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.shape.groups,
        "head_dim": sizes.channels,
        "tie_word_embeddings": sizes.tie_embeddings,
    }
