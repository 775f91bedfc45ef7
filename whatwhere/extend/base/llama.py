"""A Llama in plain PyTorch for a fast training loop; its weights load into `LlamaForCausalLM`.

    x ← x + O(softmax(R_i q · R_j k / √d) v),   x ← x + W_down(silu(W_gate x) ∘ W_up x)

on root-mean-square normalized x, as `transformers` computes it (held equal by a test). It is not
`whatwhere.nn`: what is trained here has to be the released architecture, names included.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

__all__ = ["Llama", "Sizes", "export"]


@dataclass(frozen=True)
class Sizes:
    """The sizes of a Llama under the names of its config.json; 7.8 million parameters."""

    vocab_size: int = 4096
    hidden_size: int = 320
    intermediate_size: int = 704
    num_hidden_layers: int = 6
    num_attention_heads: int = 5
    head_dim: int = 64
    max_position_embeddings: int = 512
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5

    def hf(self) -> dict[str, Any]:
        """config.json of `LlamaForCausalLM`, rope_theta also where older releases look for it."""
        return {
            **asdict(self),
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "rope_parameters": {"rope_type": "default", "rope_theta": self.rope_theta},
            "num_key_value_heads": self.num_attention_heads,
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "tie_word_embeddings": True,
            "initializer_range": 0.02,
            "bos_token_id": None,
            "eos_token_id": 0,
            "pad_token_id": 0,
            "dtype": "float16",
        }


class _Attention(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width = sizes.num_attention_heads * sizes.head_dim
        self.head_dim = sizes.head_dim
        self.q_proj, self.k_proj, self.v_proj = (
            nn.Linear(sizes.hidden_size, width, bias=False) for _ in range(3)
        )
        self.o_proj = nn.Linear(width, sizes.hidden_size, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        # One product in place of three: the names stay Llama's, and narrow matrices stay busy.
        joined = torch.cat([self.q_proj.weight, self.k_proj.weight, self.v_proj.weight])
        heads = F.linear(x, joined).unflatten(-1, (3, -1, self.head_dim)).transpose(1, 3)
        q, k, v = heads.unbind(2)
        q, k = rotated(q, cos, sin).to(v.dtype), rotated(k, cos, sin).to(v.dtype)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(out.transpose(1, 2).flatten(2))


class _MLP(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = (
            nn.Linear(sizes.hidden_size, sizes.intermediate_size, bias=False) for _ in range(2)
        )
        self.down_proj = nn.Linear(sizes.intermediate_size, sizes.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat([self.gate_proj.weight, self.up_proj.weight])
        gate, up = F.linear(x, joined).chunk(2, dim=-1)
        return self.down_proj(F.silu(gate) * up)


class _Layer(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(sizes.hidden_size, eps=sizes.rms_norm_eps)
        self.self_attn = _Attention(sizes)
        self.post_attention_layernorm = nn.RMSNorm(sizes.hidden_size, eps=sizes.rms_norm_eps)
        self.mlp = _MLP(sizes)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Llama(nn.Module):
    """The decoder with the embedding as its head: (b, n) tokens to (b, n, vocab) logits."""

    cos: Tensor
    sin: Tensor

    def __init__(self, sizes: Sizes, seed: int = 0) -> None:
        super().__init__()
        self.sizes = sizes
        self.model = nn.ModuleDict(
            {
                "embed_tokens": nn.Embedding(sizes.vocab_size, sizes.hidden_size),
                "layers": nn.ModuleList(_Layer(sizes) for _ in range(sizes.num_hidden_layers)),
                "norm": nn.RMSNorm(sizes.hidden_size, eps=sizes.rms_norm_eps),
            }
        )
        half = torch.arange(0, sizes.head_dim, 2, dtype=torch.float64) / sizes.head_dim
        places = torch.arange(sizes.max_position_embeddings, dtype=torch.float64)
        angles = places[:, None] * sizes.rope_theta**-half
        self.register_buffer("cos", angles.cos().float(), persistent=False)
        self.register_buffer("sin", angles.sin().float(), persistent=False)
        self._initialize(seed)

    def forward(self, tokens: Int64[Tensor, "b n"]) -> Float[Tensor, "b n v"]:
        """Logits of the token after each."""
        n = tokens.shape[1]
        embedding = self.model["embed_tokens"]
        x = embedding(tokens)
        for layer in self.model["layers"]:  # type: ignore[union-attr]
            x = layer(x, self.cos[:n], self.sin[:n])
        return F.linear(self.model["norm"](x), cast("Tensor", embedding.weight))

    def _initialize(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2:
                continue
            # What is added to the residual starts smaller: 2 · layers of them are summed.
            added = name.endswith(("o_proj.weight", "down_proj.weight"))
            std = 0.02 / math.sqrt(2 * self.sizes.num_hidden_layers) if added else 0.02
            nn.init.normal_(parameter, std=std, generator=generator)


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE in Llama's layout: the pairs are (i, i + d/2)."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def export(model: Llama, tokenizer: Path, out: Path) -> None:
    """Write what `AutoModelForCausalLM` and `AutoTokenizer` load: float16 weights, config, tokens.

    float16 and not bfloat16: the weights are small, and it rounds them eight times finer.
    """
    from safetensors.torch import save_file

    out.mkdir(parents=True, exist_ok=True)
    weights = {
        name: value.detach().to("cpu", torch.float16).contiguous()
        for name, value in model.state_dict().items()
    }
    beside = out / "model.safetensors.new"
    save_file(weights, beside, metadata={"format": "pt"})
    beside.replace(out / "model.safetensors")
    (out / "config.json").write_text(json.dumps(model.sizes.hf(), indent=2) + "\n")
    (out / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "model_max_length": model.sizes.max_position_embeddings,
        "clean_up_tokenization_spaces": False,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(about, indent=2) + "\n")
