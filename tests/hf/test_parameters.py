"""`rope_parameters` both ways, against transformers' own functions; refusals with their reason."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hf.models import BASE, LENGTH, tiny_config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from whatwhere import hf, make
from whatwhere.encodings import Rescaled, RoPE

COUNT = 8  # 16 channels
FACTORS = [1 + 0.5 * i for i in range(COUNT)]

STATIC = {
    "rope": "default",
    "rope+abf(multiplier=50)": "default",
    "rope+ntk(factor=4)": "default",
    "rope+ntk_base(factor=4)": "default",
    "rope+ntk_alpha(alpha=9)": "default",
    "rope+linear(factor=4)": "linear",
    "rope+by_parts(factor=4,beta=8)": "yarn",
    "rope+by_parts(factor=4,beta=8,ramp=paper)": "llama3",
    "rope+yarn(factor=4,beta_fast=8)": "yarn",
    "rope+yarn(factor=4,beta_fast=8,truncate=false)": "yarn",
    "rope+yarn(factor=4,attention_factor=1.5)": "yarn",
    "rope+yarn(factor=4,mscale=1,mscale_all_dim=0.5)": "yarn",
    "rope+yarn(factor=4,train_length=40)": "yarn",
    "rope+yarn(factor=4,beta_fast=8,ramp=paper)": "longrope",
    "rope+llama3(factor=4)": "llama3",
    f"rope+longrope(long_factor={FACTORS},factor=4)": "longrope",
    f"rope+longrope(long_factor={FACTORS},factor=4,attention_factor='yarn')": "longrope",
    f"rope+longrope(long_factor={FACTORS},attention_factor=1.25)": "longrope",
    "rope+ntk_fixed(factor=4)": "longrope",
    "rope+ntk_mixed(factor=4)": "longrope",
    "rope+proportional(share=0.5,divisor=2)": "proportional",
}


def ours(text: str, length: int) -> tuple[list[float], float]:
    """Frequencies and amplitude of an expression over the tiny model's base."""
    part = text.replace("rope", f"rope(spectrum=geometric(base={BASE}))", 1)
    text = part if text == "rope" or text.startswith("rope+") else text
    encoding: Any = make(text, heads=6, kv_heads=3, head_dim=16, train_length=LENGTH)
    assert isinstance(encoding, RoPE | Rescaled)
    found = encoding.phases.spectrum(16, length)
    return list(found.inv_freq), found.amplitude


def theirs(config: Any, length: int, layer_type: str | None = None) -> tuple[list[float], float]:
    """What transformers makes of a config at this length."""
    parameters = config.rope_parameters[layer_type] if layer_type else config.rope_parameters
    kind = parameters["rope_type"]
    if kind == "default":
        ladder = parameters["rope_theta"] ** (-torch.arange(0, 16, 2, dtype=torch.float64) / 16)
        return ladder.tolist(), 1.0
    nested = {} if layer_type is None else {"layer_type": layer_type}
    inv_freq, factor = ROPE_INIT_FUNCTIONS[kind](
        config, torch.device("cpu"), seq_len=length, **nested
    )
    return inv_freq.tolist(), float(factor)


@pytest.mark.parametrize("text", STATIC)
def test_there_and_back(text: str) -> None:
    """Ours == transformers' function on what is written == what is read back from that."""
    plain = tiny_config("llama")
    parameters = hf.to_rope_parameters(text, plain)
    assert parameters["rope_type"] == STATIC[text]
    config = tiny_config("llama", rope_parameters=dict(parameters))
    read = hf.from_rope_parameters(config)
    assert isinstance(read, str)
    for length in (LENGTH, LENGTH + 1, 300):
        inv_freq, amplitude = ours(text, length)
        found = theirs(config, length)
        # transformers computes in float32.
        assert found[0] == pytest.approx(inv_freq, rel=2e-5)
        assert found[1] == pytest.approx(amplitude, rel=1e-6)
        again = ours(read, length)
        assert again[0] == pytest.approx(inv_freq, rel=1e-9)
        assert again[1] == pytest.approx(amplitude, rel=1e-9)
    assert hf.to_rope_parameters(read, plain) == parameters


def test_longrope_s_amplitude_is_written_for_vllm_too() -> None:
    """vLLM reads short_mscale and long_mscale, else it takes LongRoPE's formula of the lengths."""
    plain, text = tiny_config("llama"), f"rope+longrope(long_factor={FACTORS},factor=4"
    keys = ("attention_factor", "short_mscale", "long_mscale")
    found = hf.to_rope_parameters(f"{text},attention_factor=1.25)", plain)
    assert [found[key] for key in keys] == [1.25, 1.25, 1.25]
    assert not set(keys) & set(hf.to_rope_parameters(f"{text})", plain))
    longer = tiny_config("llama", max_position_embeddings=8 * LENGTH)  # the formula would see 8
    found = hf.to_rope_parameters(f"{text},train_length={LENGTH})", longer)
    own = math.sqrt(1 + math.log(4) / math.log(LENGTH))
    assert [found[key] for key in keys] == pytest.approx([own, own, own])
    longer.rope_parameters = found | {"long_mscale": 1.5}
    with pytest.raises(ValueError, match=r"long_mscale 1.5, which transformers does not read"):
        hf.from_rope_parameters(longer)


def test_dynamic_there_and_back() -> None:
    plain = tiny_config("llama")
    parameters = hf.to_rope_parameters("rope+dynamic_ntk(factor=2)", plain)
    assert parameters == {"rope_type": "dynamic", "rope_theta": BASE, "factor": 2.0}
    config = tiny_config("llama", rope_parameters=dict(parameters))
    for length in (10, LENGTH, 301):
        inv_freq, _ = ours("rope+dynamic_ntk(factor=2)", length)
        assert theirs(config, length)[0] == pytest.approx(inv_freq, rel=2e-5)
        assert ours(str(hf.from_rope_parameters(config)), length)[0] == pytest.approx(inv_freq)


def test_parameters_per_layer_type() -> None:
    """Gemma 3: a text goes to the layers without a window, the others keep their own."""
    plain = tiny_config("gemma3_text")
    parameters = hf.to_rope_parameters("rope+yarn(factor=4)", plain)
    assert parameters["sliding_attention"] == {"rope_type": "default", "rope_theta": 20.0}
    config = tiny_config("gemma3_text", rope_parameters=parameters)
    inv_freq, amplitude = ours("rope+yarn(factor=4)", 300)
    found = theirs(config, 300, "full_attention")
    assert found[0] == pytest.approx(inv_freq, rel=2e-5)
    assert found[1] == pytest.approx(amplitude)
    read = hf.from_rope_parameters(config)
    assert isinstance(read, dict)
    assert read["sliding_attention"] == "rope(spectrum=geometric(base=20))"
    assert read["full_attention"].startswith("rope(spectrum=yarn(factor=4")
    both = {"sliding_attention": "rope+linear(factor=2)", "full_attention": "rope"}
    named = hf.to_rope_parameters(both, plain)
    assert named["sliding_attention"]["rope_type"] == "linear"
    assert named["full_attention"]["rope_type"] == "default"


def test_a_ratio_of_lengths_stands_for_a_missing_factor() -> None:
    """DeepSeek's yarn and Phi-3's longrope leave factor out: it is a ratio of two lengths."""
    lists = {"short_factor": [1.0] * COUNT, "long_factor": FACTORS}
    cases: list[dict[str, Any]] = [
        {"rope_type": "yarn", "factor": None},
        {"rope_type": "longrope", **lists},
    ]
    for parameters in cases:
        config = tiny_config("llama", max_position_embeddings=256)
        config.rope_parameters = {
            **parameters,
            "rope_theta": BASE,
            "original_max_position_embeddings": LENGTH,
        }
        text = str(hf.from_rope_parameters(config))
        for length in (LENGTH, 200):
            inv_freq, amplitude = ours(text, length)
            found = theirs(config, length)
            assert found[0] == pytest.approx(inv_freq, rel=2e-5)
            assert found[1] == pytest.approx(amplitude, rel=1e-6)
            assert amplitude > 1.05


def test_layout_and_partial_rotation_are_read() -> None:
    assert hf.from_rope_parameters(tiny_config("glm")) == (
        f"rope(spectrum=geometric(base={BASE:g}),layout=interleaved,partial=0.5)"
    )
    parameters = hf.to_rope_parameters("rope+linear(factor=2)", tiny_config("glm"))
    assert parameters["partial_rotary_factor"] == 0.5


def test_phi_3_takes_lists_only() -> None:
    config = tiny_config("phi3")
    parameters = hf.to_rope_parameters("rope+yarn(factor=4,beta_fast=8)", config)
    assert parameters["rope_type"] == "longrope"
    assert parameters["original_max_position_embeddings"] == LENGTH
    with pytest.raises(ValueError, match="takes no rope_type 'dynamic'"):
        hf.to_rope_parameters("rope+dynamic_ntk", config)


NO_FORM = {
    "rope+rerope(window=8)": "splits pairs",
    "rope+leaky_rerope(window=8,factor=4)": "splits pairs",
    "rope+self_extend(group=4,window=8)": "splits pairs",
    "rope+dual_chunk": "splits pairs",
    "rope+logn": "scales scores",
    "rope+llama4_temperature": "scales scores",
    "rope+yarn_temperature(factor=4)": "write rope",
    "rope_values": "rotated values",
    "pope": "own phase",
    "alibi": "no rotation",
    "nope": "no rotation",
    "rope+yarn(factor=dynamic)": "follows the length",
    "rope+length_scaled": "follows the length",
    "rope+qwen_dynamic": "follows the length",
    "rope+dynamic_ntk(train_length=50)": "must agree",
    f"rope+longrope(long_factor={FACTORS},factor=4,n_hat=8)": "n_hat",
    "rope(partial=0.5)": "8 of 16 channels",
    "rope(spectrum=proportional(share=0.5))+linear(factor=2)": "geometric ladder",
}


@pytest.mark.parametrize("text", NO_FORM)
def test_what_has_no_form_is_refused_with_the_reason(text: str) -> None:
    with pytest.raises(ValueError, match=NO_FORM[text]):
        hf.to_rope_parameters(text, tiny_config("llama"))


def test_what_a_config_can_not_mean_is_refused() -> None:
    config = tiny_config("llama")
    config.rope_parameters = {"rope_type": "yarm", "rope_theta": BASE}
    with pytest.raises(ValueError, match="did you mean 'yarn'"):
        hf.from_rope_parameters(config)
    config.rope_parameters = {"rope_type": "linear", "rope_theta": BASE}
    with pytest.raises(ValueError, match="needs factor"):
        hf.from_rope_parameters(config)
    config.rope_parameters = {"rope_type": "linear", "factor": 2.0, "beta_fast": 4}
    with pytest.raises(ValueError, match="beta_fast, which transformers does not read"):
        hf.from_rope_parameters(config)
    config.rope_parameters = None
    with pytest.raises(ValueError, match="no rope_parameters"):
        hf.from_rope_parameters(config)
    nested = tiny_config("gemma3_text")
    nested.rope_parameters["full_attention"] = {
        **{"rope_type": "yarn", "rope_theta": BASE, "factor": 4.0, "truncate": False},
        "original_max_position_embeddings": LENGTH,
    }
    with pytest.raises(ValueError, match="truncate"):
        hf.from_rope_parameters(nested)
    with pytest.raises(ValueError, match="one rope_parameters for all"):
        hf.to_rope_parameters({"sliding_attention": "rope+linear(factor=2)"}, tiny_config("gemma2"))
