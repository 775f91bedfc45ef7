"""The small decoder of the studies: Llama-shaped, with any encoding."""

from whatwhere.nn.config import DecoderConfig
from whatwhere.nn.decoder import Decoder
from whatwhere.nn.generate import generate

__all__ = ["Decoder", "DecoderConfig", "generate"]
