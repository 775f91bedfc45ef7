"""Released models with another encoding, and `rope_parameters` both ways.

from whatwhere import hf
handle = hf.use(model, "rope+yarn(factor=4)")
...
hf.undo(handle)

Our own decoder as a model of transformers: `hf.DecoderForCausalLM.from_decoder(decoder)`.
"""

from __future__ import annotations

try:
    import transformers as _transformers  # noqa: F401  # pyright: ignore[reportUnusedImport]
except ImportError as error:
    raise ImportError(
        "whatwhere.hf needs transformers 5.17 or newer: pip install 'whatwhere[hf]'"
    ) from error

from whatwhere.hf.architectures import COVERED, Architecture
from whatwhere.hf.decoder import DecoderForCausalLM
from whatwhere.hf.decoder_cache import DecoderCache
from whatwhere.hf.decoder_config import DecoderModelConfig
from whatwhere.hf.handle import Handle, undo, use
from whatwhere.hf.read import from_rope_parameters
from whatwhere.hf.write import to_rope_parameters

__all__ = [
    "COVERED",
    "Architecture",
    "DecoderCache",
    "DecoderForCausalLM",
    "DecoderModelConfig",
    "Handle",
    "from_rope_parameters",
    "to_rope_parameters",
    "undo",
    "use",
]
