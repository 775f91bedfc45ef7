"""From an encoding to `rope_parameters`: what plain transformers and other readers can run.

transformers knows seven kinds of frequencies and one number on cosine and sine. A larger base is
its "default"; every other static spectrum on a geometric ladder is a list of factors ("longrope").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from whatwhere.encodings import Encoding, Rescaled, RoPE
from whatwhere.hf.architectures import architecture_of
from whatwhere.hf.resolve import Choice, Wanted, choose
from whatwhere.hf.sizes import parameters_of, rotated_share, shape_of, train_length_of
from whatwhere.spectra import Spectrum
from whatwhere.spectra.frequencies import ladder

__all__ = ["Written", "to_rope_parameters", "written"]


@dataclass(frozen=True)
class Written:
    """`rope_parameters`, nested where the config's are, and the longest text they are made for.

    longest: None where max_position_embeddings must stay the trained length ("linear", which
    readers multiply by its factor, and "dynamic", which starts from it).
    """

    parameters: dict[str, Any]
    longest: int | None


def to_rope_parameters(
    encoding: Wanted,
    config: Any,
    *,
    train_length: int | None = None,
    factor: float | None = None,
) -> dict[str, Any]:
    """The `rope_parameters` with which plain transformers computes what `hf.use` would.

    encoding, train_length, factor: as in `hf.use`; the config is read, not changed. Nested per
    layer type where the config's own are. `model.save_pretrained` under `hf.use` writes the same.
    Raises ValueError with the reason where there is no such form (regions, biases, temperatures,
    PoPE, factors that follow the length).
    """
    return written(config, encoding, choose(config, encoding, train_length, factor)).parameters


def written(config: Any, wanted: Wanted, choices: Mapping[str, Choice]) -> Written:
    """`rope_parameters` for choices already made. Raises ValueError where there is no form."""
    own = parameters_of(config)
    if "" not in own:
        each = {name: _one(config, choices[name].encoding, own[name], True) for name in own}
        lengths = [one.longest for one in each.values()]
        longest = None if None in lengths else max(length or 0 for length in lengths)
        return Written({name: one.parameters for name, one in each.items()}, longest)
    texts = {str(choice.expression or id(choice.encoding)) for choice in choices.values()}
    if len(texts) > 1 and isinstance(wanted, Mapping):
        kind = getattr(config, "model_type", "this model")
        raise ValueError(f"{kind} has one rope_parameters for all layer types; give one encoding")
    return _one(config, next(iter(choices.values())).encoding, own[""], False)


def _one(config: Any, encoding: Encoding, own: Mapping[str, Any], nested: bool) -> Written:
    spectrum, rope = _rotation(encoding)
    share, head_dim = rotated_share(own), shape_of(config).head_dim
    proportional = own.get("rope_type") == "proportional"
    if rope.phases.dim != (head_dim if proportional else int(head_dim * share)):
        raise ValueError(
            f"this rotates {rope.phases.dim} of {head_dim} channels, the model's own share is "
            f"{share:g}, and its code splits the channels by that"
        )
    if spectrum.length_dependent and spectrum.name not in ("dynamic_ntk", "longrope"):
        raise ValueError(
            f"{spectrum} follows the length of the text, and rope_parameters hold one set of "
            "frequencies; give factor a number"
        )
    found = _form(config, spectrum, rope.phases.dim, train_length_of(config, own))
    parameters = dict(found.parameters)
    if nested and parameters.get("truncate") is False:
        raise ValueError(
            "truncate=False per layer type: transformers reads truncate from flat rope_parameters "
            "only, and would compute with True"
        )
    outside = getattr(config, "original_max_position_embeddings", None)
    inside = parameters.get("original_max_position_embeddings")
    if None not in (outside, inside) and outside != inside:
        raise ValueError(
            f"train_length is {inside}, and this config has original_max_position_embeddings "
            f"{outside} beside rope_parameters, which wins in transformers: they must agree"
        )
    if share != 1.0 and spectrum.name != "proportional":
        parameters["partial_rotary_factor"] = share
    return Written(parameters, found.longest)


def _form(config: Any, spectrum: Spectrum, dim: int, trained: int) -> Written:
    options, length = dict(spectrum.options), config.max_position_embeddings
    if spectrum.name not in _FORMS:
        return _factors(spectrum, options, dim, trained)
    found = _FORMS[spectrum.name](spectrum, options, dim, length)
    taken, kind = architecture_of(config).rope_types, found.parameters["rope_type"]
    if not taken or kind in taken:
        return found
    if spectrum.length_dependent:
        raise ValueError(
            f"{config.model_type} takes no rope_type {kind!r}, only {', '.join(taken)}"
        )
    return _factors(spectrum, options, dim, trained)


def _rotation(encoding: Encoding) -> tuple[Spectrum, RoPE]:
    """The spectrum and the rotation that it turns, of an encoding that is nothing else."""
    inner = encoding.inner if isinstance(encoding, Rescaled) else encoding
    if not isinstance(inner, RoPE):
        name = inner.name
        reason = _NO_FORM.get(name, "is no rotation of pairs of channels")
        raise ValueError(f"{name} has no form in rope_parameters: it {reason}")
    if inner.values != "none":
        raise ValueError("rotated values have no form in rope_parameters: they hold frequencies")
    phases = encoding.phases if isinstance(encoding, Rescaled) else inner.phases
    return phases.spectrum, inner


_SPLITS = "splits pairs of tokens by their distance, and rope_parameters hold frequencies only"
_SCALES = "scales scores by the query's position, and rope_parameters hold frequencies only"
_NO_FORM = {
    "rerope": _SPLITS,
    "leaky_rerope": _SPLITS,
    "inverse_leaky_rerope": _SPLITS,
    "self_extend": _SPLITS,
    "dual_chunk": _SPLITS,
    "logn": _SCALES,
    "llama4_temperature": _SCALES,
    "yarn_temperature": "is carried by the yarn spectrum: write rope+yarn(factor=…) instead",
    "pope": "gives every channel its own phase, and transformers rotates pairs",
}


def _plain(base: float, factor: float, length: int) -> Written:
    return Written({"rope_type": "default", "rope_theta": base}, round(length * factor))


def _geometric(spectrum: Spectrum, options: dict[str, Any], dim: int, length: int) -> Written:
    return _plain(options["base"], 1.0, length)


def _abf(spectrum: Spectrum, options: dict[str, Any], dim: int, length: int) -> Written:
    # A base says nothing about a length: the config keeps its own.
    return _plain(options["multiplier"] * options["base"], 1.0, length)


def _ntk(spectrum: Spectrum, options: dict[str, Any], dim: int, length: int) -> Written:
    """b · s^(d/(d-2)): the ladder whose last pair is divided by exactly s."""
    ratio = float(options.get("factor") or options["alpha"])
    stretch = ratio ** (dim / (dim - 2)) if ratio != 1 else 1.0
    return _plain(options["base"] * stretch, options.get("factor") or 1.0, length)


def _ntk_base(spectrum: Spectrum, options: dict[str, Any], dim: int, length: int) -> Written:
    return _plain(options["base"] * options["factor"], options["factor"], length)


def _linear(spectrum: Spectrum, options: dict[str, Any], dim: int, length: int) -> Written:
    found = {"rope_type": "linear", "rope_theta": options["base"], "factor": options["factor"]}
    return Written(found, None)


def _dynamic(spectrum: Spectrum, options: dict[str, Any], dim: int, length: int) -> Written:
    if options["train_length"] != length:
        raise ValueError(
            f"dynamic_ntk starts from train_length {options['train_length']}, and transformers "
            f"starts from the config's max_position_embeddings, {length}: they must agree"
        )
    found = {"rope_type": "dynamic", "rope_theta": options["base"], "factor": options["factor"]}
    return Written(found, None)


def _yarn(spectrum: Spectrum, options: dict[str, Any], dim: int, length: int) -> Written:
    if options["ramp"] != "code":
        return _factors(spectrum, options, dim, length)
    keys = ("attention_factor", "mscale", "mscale_all_dim")
    chosen = {key: options[key] for key in keys if options.get(key) is not None}
    return _by_index(options, options["beta_fast"], options["beta_slow"], chosen)


def _by_parts(spectrum: Spectrum, options: dict[str, Any], dim: int, length: int) -> Written:
    """YaRN without its temperature; with the paper's ramp it is Llama 3's scaling."""
    alpha, beta = options["alpha"], options["beta"]
    if options["ramp"] == "code":
        return _by_index(options, beta, alpha, {"attention_factor": 1.0})
    return _by_turns(options, alpha, beta)


def _llama3(spectrum: Spectrum, options: dict[str, Any], dim: int, length: int) -> Written:
    return _by_turns(options, options["low_freq_factor"], options["high_freq_factor"])


def _by_index(options: dict[str, Any], fast: float, slow: float, chosen: dict[str, Any]) -> Written:
    found = {"rope_type": "yarn", "rope_theta": options["base"], "factor": options["factor"]}
    found |= {"original_max_position_embeddings": options["train_length"]}
    found |= {"beta_fast": fast, "beta_slow": slow, **chosen}
    if not options["truncate"]:
        found["truncate"] = False
    return Written(found, round(options["factor"] * options["train_length"]))


def _by_turns(options: dict[str, Any], low: float, high: float) -> Written:
    if low == high:
        raise ValueError(f"a ramp from {low:g} to {high:g} turns divides by zero in transformers")
    found = {"rope_type": "llama3", "rope_theta": options["base"], "factor": options["factor"]}
    found |= {"original_max_position_embeddings": options["train_length"]}
    found |= {"low_freq_factor": low, "high_freq_factor": high}
    return Written(found, round(options["factor"] * options["train_length"]))


def _longrope(spectrum: Spectrum, options: dict[str, Any], dim: int, length: int) -> Written:
    if options["n_hat"]:
        raise ValueError(
            f"n_hat is {options['n_hat']}, and transformers turns all positions alike; search with "
            "n_hat=0"
        )
    policy, factor = options["attention_factor"], options["factor"]
    if isinstance(policy, str) and not isinstance(factor, float):
        raise ValueError(f"longrope's amplitude follows the length: give factor, not {factor!r}")
    ratio = factor if isinstance(factor, float) else 1.0
    trained = options["train_length"]
    found = {"rope_type": "longrope", "rope_theta": options["base"], "factor": ratio}
    found |= {"original_max_position_embeddings": trained}
    found["long_factor"] = list(options["long_factor"])
    found["short_factor"] = list(options["short_factor"] or options["long_factor"])
    longest = round(ratio * trained)
    if policy != "su" or length > longest:  # else every reader finds it from the two lengths
        found |= _amplitude(spectrum(dim, 1).amplitude)
    return Written(found, longest)


def _amplitude(value: float) -> dict[str, float]:
    """The number on cosine and sine of "longrope", for all who read it.

    transformers reads attention_factor (and says that it does not know the others), vLLM the other
    two, for short and long texts; without them it takes LongRoPE's own formula.
    """
    return {"attention_factor": value, "short_mscale": value, "long_mscale": value}


def _proportional(spectrum: Spectrum, options: dict[str, Any], dim: int, length: int) -> Written:
    found = {"rope_type": "proportional", "rope_theta": options["base"]}
    found |= {"partial_rotary_factor": options["share"], "factor": options["divisor"]}
    return Written(found, length)


def _factors(spectrum: Spectrum, options: dict[str, Any], dim: int, length: int) -> Written:
    """Any static spectrum as one factor a frequency, its amplitude as attention_factor."""
    made, plain = spectrum(dim, 1), ladder(dim, options["base"])
    if 0.0 in made.inv_freq:
        raise ValueError(f"{spectrum} has frequencies of 0, which are no ladder over a factor")
    factors = [theta / turned for theta, turned in zip(plain, made.inv_freq, strict=True)]
    ratio = float(options.get("factor") or 1.0)
    trained = options.get("train_length") or length
    found: dict[str, Any] = {"rope_type": "longrope", "rope_theta": options["base"]}
    found |= {"factor": ratio, "original_max_position_embeddings": trained}
    found |= {"long_factor": factors, "short_factor": list(factors)}
    return Written(found | _amplitude(made.amplitude), round(ratio * trained))


_FORMS: dict[str, Callable[[Spectrum, dict[str, Any], int, int], Written]] = {
    "geometric": _geometric,
    "abf": _abf,
    "ntk": _ntk,
    "ntk_alpha": _ntk,
    "ntk_base": _ntk_base,
    "linear": _linear,
    "dynamic_ntk": _dynamic,
    "yarn": _yarn,
    "by_parts": _by_parts,
    "llama3": _llama3,
    "longrope": _longrope,
    "proportional": _proportional,
}
