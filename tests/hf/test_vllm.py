"""What is saved under `hf.use`, run by vLLM's own code: its config, its loader, its models.

vLLM is no dependency: without it this file is skipped. On a CPU the wheel of the registry is enough
(docs/vllm.md says how it is installed): models run in its native PyTorch code. Only the attention
after the rotation, whose kernels are for GPUs, is replaced here, by torch's.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hf.models import BASE, LENGTH, assert_close, logits, tiny_model, tokens
from torch import nn

from whatwhere import hf

if importlib.util.find_spec("vllm") is None:
    pytest.skip("vLLM is not installed: docs/vllm.md says how", allow_module_level=True)

os.environ["VLLM_TARGET_DEVICE"] = "cpu"
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

from vllm import distributed
from vllm.config import (
    CacheConfig,
    CompilationConfig,
    LoadConfig,
    ModelConfig,
    VllmConfig,
    set_current_vllm_config,
)
from vllm.forward_context import set_forward_context
from vllm.model_executor.layers import attention
from vllm.model_executor.layers.rotary_embedding import get_rope
from vllm.model_executor.model_loader import get_model

LONG = 4 * LENGTH
# What vLLM does not do of the tiny models: windows in some layers only, norms of stablelm's heads.
CHANGES: dict[str, dict[str, Any]] = {
    "qwen2": {"use_sliding_window": False, "sliding_window": None},
    "qwen3": {"use_sliding_window": False, "sliding_window": None, "layer_types": None},
    "stablelm": {"qk_layernorm": False},
}
FACTORS = [1 + 0.5 * i for i in range(8)]
LLAMA = [
    "rope",
    "rope+abf(multiplier=50)",
    "rope+ntk(factor=4)",
    "rope+ntk_base(factor=4)",
    "rope+linear(factor=4)",
    "rope+by_parts(factor=4,beta=8)",
    "rope+by_parts(factor=4,beta=8,ramp=paper)",
    "rope+yarn(factor=4,beta_fast=8)",
    "rope+yarn(factor=4,beta_fast=8,truncate=false)",
    "rope+yarn(factor=4,attention_factor=1.5)",
    "rope+yarn(factor=4,mscale=1,mscale_all_dim=0.5)",
    "rope+yarn(factor=4,beta_fast=8,ramp=paper)",
    "rope+llama3(factor=4)",
    f"rope+longrope(long_factor={FACTORS},factor=4)",
    f"rope+longrope(long_factor={FACTORS},factor=4,attention_factor='yarn')",
    f"rope+longrope(long_factor={FACTORS},factor=4,attention_factor=1.25)",
    "rope+ntk_fixed(factor=4)",
    "rope+ntk_mixed(factor=4)",
]
YARN, LISTS = "rope+yarn(factor=4,beta_fast=8)", "rope+ntk_mixed(factor=4)"
OTHERS = [
    *((kind, text) for kind in ("gemma2", "gemma3_text", "mistral", "phi3", "qwen2", "qwen3",
                                "stablelm") for text in ("rope+ntk(factor=4)", YARN, LISTS)),
    # Interleaved channels, which vLLM's longrope refuses: see below.
    *((kind, text) for kind in ("cohere", "glm4") for text in ("rope+ntk(factor=4)", YARN)),
    # vLLM runs transformers' code for these, and leaves its classes unfit for a second model.
    *((kind, YARN) for kind in ("gpt_neox", "olmo2", "smollm3")),
]  # fmt: skip


class Attention(nn.Module):
    """softmax(q kᵀ · scale) v over one text, as vLLM's layer of this name is called."""

    def __init__(
        self, num_heads: int, head_size: int, scale: float, num_kv_heads: int | None = None,
        alibi_slopes: Any = None, cache_config: Any = None, *unused: Any,
        per_layer_sliding_window: int | None = None, logits_soft_cap: float | None = None,
        **more: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        self.heads, self.size, self.scale = num_heads, head_size, scale
        self.groups, self.cap = num_kv_heads or num_heads, logits_soft_cap
        self.window = per_layer_sliding_window or getattr(cache_config, "sliding_window", None)

    def forward(self, query: Any, key: Any, value: Any) -> torch.Tensor:
        n = len(query)
        q = query.view(n, self.heads, self.size).transpose(0, 1)
        k, v = (each.view(n, self.groups, self.size).transpose(0, 1) for each in (key, value))
        k, v = (each.repeat_interleave(self.heads // self.groups, 0) for each in (k, v))
        scores = q @ k.mT * self.scale
        if self.cap:
            scores = self.cap * torch.tanh(scores / self.cap)
        gap = torch.arange(n)[:, None] - torch.arange(n)
        seen = (gap >= 0) & (gap < (self.window or n))
        weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
        return (weights @ v).transpose(0, 1).reshape(n, -1)


@pytest.fixture(autouse=True, scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One process, and this file's attention wherever vLLM's is imported from."""
    patch, theirs = pytest.MonkeyPatch(), attention.Attention
    for name, module in list(sys.modules.items()):
        if name.startswith("vllm.") and vars(module).get("Attention") is theirs:
            patch.setattr(module, "Attention", Attention)
    patch.setattr(torch.accelerator, "empty_cache", lambda: None)
    with set_current_vllm_config(VllmConfig()):
        distributed.init_distributed_environment(
            1, 0, f"file://{tmp_path_factory.mktemp('group')}/here", 0, "gloo"
        )
        distributed.initialize_model_parallel(1, 1)
    yield
    distributed.cleanup_dist_env_and_memory()
    patch.undo()


def served(folder: Path, ids: torch.Tensor, asked: int | None) -> tuple[torch.Tensor, int]:
    """Logits of vLLM's model for one text, and the longest text that vLLM would serve."""
    model = ModelConfig(
        model=str(folder), dtype="float32", enforce_eager=True, skip_tokenizer_init=True,
        max_model_len=asked,
    )  # fmt: skip
    types = getattr(model.hf_text_config, "layer_types", None) or ["sliding_attention"]
    window = model.get_sliding_window() if set(types) == {"sliding_attention"} else None
    config = VllmConfig(
        model_config=model,
        cache_config=CacheConfig(sliding_window=window),
        load_config=LoadConfig(load_format="safetensors"),
        compilation_config=CompilationConfig(custom_ops=["none"], mode=0),
    )
    with set_current_vllm_config(config), torch.no_grad(), set_forward_context(None, config):
        net: Any = get_model(vllm_config=config)
        return net.compute_logits(net(ids, torch.arange(len(ids)))), model.max_model_len


def saved(model: Any, text: str, folder: Path) -> torch.Tensor:
    """Logits under `hf.use`, after it was saved so."""
    parameters = hf.to_rope_parameters(text, model.config)
    with hf.use(model, text):
        # A base says nothing about a length; `whatwhere extend --save` writes the target as well.
        if parameters.get("rope_type", "default") == "default":
            model.config.max_position_embeddings = LONG
        model.save_pretrained(folder)
        return logits(model, tokens(1, LONG))[0]


@pytest.mark.parametrize(
    ("kind", "text"), [*(("llama", text) for text in LLAMA), *OTHERS], ids=lambda x: str(x)[:50]
)
def test_vllm_computes_the_same(kind: str, text: str, tmp_path: Path) -> None:
    model = tiny_model(kind, **CHANGES.get(kind, {}))
    plain, expected = logits(model, tokens(1, LONG))[0], saved(model, text, tmp_path)
    # Phi-3's longest text is the trained one for vLLM, unless --max-model-len says more.
    found, longest = served(tmp_path, tokens(1, LONG)[0], LONG if kind == "phi3" else None)
    assert longest == LONG
    # Angles in float32 are off by up to 255 · 2⁻²⁴ at the last position; sharp scores multiply it.
    assert_close(found[:, : expected.shape[1]], expected, 5e-5)
    if text != "rope":
        assert (plain - expected).abs().max() > 1e-2, "the method is not seen"


def test_what_vllm_does_not_compute() -> None:
    """What `whatwhere extend --needs vllm` refuses, by the reasons that `form_of` gives."""

    def table(changes: dict[str, Any], base: str = "default") -> torch.Tensor:
        rope = {"rope_type": base, "rope_theta": BASE, **changes}
        return get_rope(16, LONG, rope_parameters=rope, dtype=torch.float32).cos_sin_cache

    with set_current_vllm_config(VllmConfig()):
        assert torch.equal(table({"factor": 4.0}, "dynamic"), table({}))
        assert torch.equal(table({"factor": 2.0}, "proportional"), table({}, "proportional"))
        lists = {"short_factor": FACTORS, "long_factor": FACTORS}
        lists |= {"rope_type": "longrope", "original_max_position_embeddings": LENGTH}
        with pytest.raises(ValueError, match="neox_style"):
            get_rope(16, LONG, is_neox_style=False, rope_parameters=lists)
