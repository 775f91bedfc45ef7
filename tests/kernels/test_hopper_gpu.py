"""Our Hopper attention on a GPU: output and all gradients against float64, bit for bit again."""

import math

import pytest
import torch
from torch import Tensor

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
WIDTHS = [(64, 64), (128, 64), (128, 128), (256, 128)]
SHAPES = [(1, 2, 2), (333, 6, 3), (1024, 4, 1)]


def definition(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool) -> Tensor:
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    scores = q @ k.mT * scale
    if causal:
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(hidden, -math.inf)
    return scores.softmax(dim=-1) @ v


def draw(heads: int, tokens: int, width: int, by_heads: bool, dtype: torch.dtype) -> Tensor:
    x = torch.randn(2, tokens, heads, width, device="cuda").to(dtype).transpose(1, 2)
    return x.contiguous() if by_heads else x


@pytest.mark.parametrize(("features", "values"), WIDTHS)
@pytest.mark.parametrize(("tokens", "heads", "groups"), SHAPES)
@pytest.mark.parametrize("by_heads", [True, False])
@pytest.mark.parametrize(("dtype", "causal"), [(torch.bfloat16, True), (torch.float16, False)])
def test_output_and_gradients(
    features: int, values: int, tokens: int, heads: int, groups: int, by_heads: bool,
    dtype: torch.dtype, causal: bool,
) -> None:  # fmt: skip
    from whatwhere.kernels.attention import attention, why_not

    reason = why_not(features, values, dtype, 0)
    if reason is not None:
        pytest.skip(reason)
    torch.manual_seed(tokens)
    sizes = ((heads, features), (groups, features), (groups, values))
    leaves = [draw(h, tokens, w, by_heads, dtype).requires_grad_() for h, w in sizes]
    grad = draw(heads, tokens, values, by_heads, dtype)
    scale = 1.0 / math.sqrt(features / 2)
    out = attention(*leaves, scale, causal)
    grads = torch.autograd.grad(out, leaves, grad)
    again = torch.autograd.grad(attention(*leaves, scale, causal), leaves, grad)
    exact = [x.detach().double().requires_grad_() for x in leaves]
    truth = definition(*exact, scale, causal)
    wanted = torch.autograd.grad(truth, exact, grad.double())
    # torch's own kernels stay below 3.1e-3 (bf16) and 4e-4 (fp16) on such data; one unit more.
    limit = 5e-3 if dtype == torch.bfloat16 else 8e-4
    for got, want in zip((out, *grads), (truth.detach(), *wanted), strict=True):
        size = max(float(want.norm()), 1e-2 * float(want.numel()) ** 0.5)
        assert float((got.detach().double() - want).norm()) <= limit * size
    assert all(torch.equal(a, b) for a, b in zip(grads, again, strict=True))
