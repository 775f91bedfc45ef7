"""From `rope_parameters` to an expression: what a released config means."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from whatwhere import spectra
from whatwhere.errors import UnknownName, did_you_mean
from whatwhere.hf.architectures import architecture_of
from whatwhere.hf.sizes import parameters_of, rotated_share, train_length_of
from whatwhere.spectra import Spectrum

__all__ = ["expressions_of", "from_rope_parameters"]

#: Keys that every type may have, and those that only the named types read.
_ALWAYS = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
_READ = {
    "default": {"original_max_position_embeddings"},
    "linear": {"factor", "original_max_position_embeddings"},
    "dynamic": {"factor", "original_max_position_embeddings"},
    "yarn": {
        "factor",
        "original_max_position_embeddings",
        "attention_factor",
        "beta_fast",
        "beta_slow",
        "mscale",
        "mscale_all_dim",
        "truncate",
    },
    "longrope": {
        "factor",
        "original_max_position_embeddings",
        "attention_factor",
        "short_factor",
        "long_factor",
        "short_mscale",
        "long_mscale",
    },
    "llama3": {
        "factor",
        "original_max_position_embeddings",
        "low_freq_factor",
        "high_freq_factor",
    },
    "proportional": {"factor"},
}


def from_rope_parameters(config: Any) -> str | dict[str, str]:
    """The expression that a config's `rope_parameters` stand for.

    A text such as "rope(spectrum=yarn(factor=4,train_length=8192))", or one per layer type where
    the config keeps them apart (Gemma 3). `hf.use(model)` runs exactly this.
    Raises UnknownName for a model type that is not covered (its layout of pairs is unknown) or a
    rope_type that nobody knows, ValueError for keys that transformers itself would not read.
    """
    found = expressions_of(config)
    return found.get("", found)


def expressions_of(config: Any) -> dict[str, str]:
    """As `from_rope_parameters`, under "" where all layers share one."""
    layout = architecture_of(config).layout
    written = parameters_of(config)
    return {
        name: _expression(config, parameters, layout, nested=bool(name))
        for name, parameters in written.items()
    }


def _expression(config: Any, parameters: Mapping[str, Any], layout: str, nested: bool) -> str:
    kind = parameters.get("rope_type") or parameters.get("type") or "default"
    if kind not in _READ:
        raise UnknownName(did_you_mean("rope_type", kind, _READ))
    unread = sorted(
        key
        for key, value in parameters.items()
        if key not in _ALWAYS | _READ[kind] and value is not None
    )
    if unread:
        raise ValueError(
            f"rope_parameters of rope_type {kind!r} has {', '.join(unread)}, which transformers "
            "does not read there; remove it, or correct the rope_type"
        )
    if nested and parameters.get("truncate") is False:
        raise ValueError(
            "rope_parameters per layer type with truncate=False: transformers reads truncate from "
            "flat parameters only, and computes with True; give the encoding yourself"
        )
    spectrum = _SPECTRA[kind](config, parameters)
    options = [f"spectrum={spectrum}"]
    if layout != "half":
        options.append(f"layout={layout}")
    share = rotated_share(parameters)
    if share != 1.0 and kind != "proportional":
        options.append(f"partial={share}")
    return f"rope({','.join(options)})"


def _base(config: Any, parameters: Mapping[str, Any]) -> float:
    value = parameters.get("rope_theta")
    return float(value if value is not None else getattr(config, "default_theta", 10000.0))


def _ratio(config: Any, parameters: Mapping[str, Any]) -> float:
    """`factor`, or the ratio of lengths that transformers takes in its place."""
    if parameters.get("factor") is not None:
        return float(parameters["factor"])
    return config.max_position_embeddings / train_length_of(config, parameters)


def _default(config: Any, parameters: Mapping[str, Any]) -> Spectrum:
    return spectra.geometric(base=_base(config, parameters))


def _linear(config: Any, parameters: Mapping[str, Any]) -> Spectrum:
    return spectra.linear(factor=_needed(parameters, "factor"), base=_base(config, parameters))


def _dynamic(config: Any, parameters: Mapping[str, Any]) -> Spectrum:
    # L is max_position_embeddings there, whatever original_max_position_embeddings says.
    length = config.max_position_embeddings
    factor = _needed(parameters, "factor")
    return spectra.dynamic_ntk(factor=factor, train_length=length, base=_base(config, parameters))


def _yarn(config: Any, parameters: Mapping[str, Any]) -> Spectrum:
    both = parameters.get("mscale") and parameters.get("mscale_all_dim")
    truncate = parameters.get("truncate")
    return spectra.yarn(
        factor=_ratio(config, parameters),
        train_length=train_length_of(config, parameters),
        attention_factor=parameters.get("attention_factor"),
        mscale=parameters.get("mscale") if both else None,
        mscale_all_dim=parameters.get("mscale_all_dim") if both else None,
        beta_fast=parameters.get("beta_fast") or 32.0,
        beta_slow=parameters.get("beta_slow") or 1.0,
        truncate=True if truncate is None else bool(truncate),
        base=_base(config, parameters),
    )


def _longrope(config: Any, parameters: Mapping[str, Any]) -> Spectrum:
    ratio, factor = _ratio(config, parameters), parameters.get("attention_factor")
    for key in ("short_mscale", "long_mscale"):  # vLLM's; `hf.to_rope_parameters` writes all three
        if parameters.get(key) not in (None, factor):
            raise ValueError(
                f"rope_parameters of rope_type 'longrope' has {key} {parameters[key]}, which "
                f"transformers does not read, and attention_factor {factor}, which it does: they "
                "must agree"
            )
    return spectra.longrope(
        long_factor=_needed(parameters, "long_factor"),
        short_factor=_needed(parameters, "short_factor"),
        factor=max(1.0, ratio),
        train_length=train_length_of(config, parameters),
        attention_factor="su" if factor is None else factor,
        base=_base(config, parameters),
    )


def _llama3(config: Any, parameters: Mapping[str, Any]) -> Spectrum:
    return spectra.llama3(
        factor=_needed(parameters, "factor"),
        train_length=train_length_of(config, parameters),
        low_freq_factor=_needed(parameters, "low_freq_factor"),
        high_freq_factor=_needed(parameters, "high_freq_factor"),
        base=_base(config, parameters),
    )


def _proportional(config: Any, parameters: Mapping[str, Any]) -> Spectrum:
    return spectra.proportional(
        share=rotated_share(parameters),
        divisor=parameters.get("factor") or 1.0,
        base=_base(config, parameters),
    )


def _needed(parameters: Mapping[str, Any], key: str) -> Any:
    value = parameters.get(key)
    if value is None:
        kind = parameters.get("rope_type") or parameters.get("type")
        raise ValueError(f"rope_parameters of rope_type {kind!r} needs {key}")
    return value


_SPECTRA: dict[str, Callable[[Any, Mapping[str, Any]], Spectrum]] = {
    "default": _default,
    "linear": _linear,
    "dynamic": _dynamic,
    "yarn": _yarn,
    "longrope": _longrope,
    "llama3": _llama3,
    "proportional": _proportional,
}
