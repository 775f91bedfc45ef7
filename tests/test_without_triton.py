"""Triton is optional: without it the library imports and computes, and `fused` says why not."""

from fresh import run_python

SCRIPT = """
import sys
sys.modules["triton"] = None  # as if it were not installed: importing it raises
import torch
import whatwhere as ww

for name in ("rope", "pope", "alibi", "rope+dual_chunk"):
    encoding = ww.make(name, heads=4, kv_heads=2, head_dim=16, train_length=16)
    q = torch.randn(2, 4, 24, 16, requires_grad=True)
    k, v = torch.randn(2, 2, 2, 24, 16).unbind()
    rule = encoding.rule(24)
    out = ww.attend(q, k, v, rule)
    out.sum().backward()
    truth = ww.attend(q, k, v, rule, backend="reference")
    assert torch.allclose(out, truth, atol=1e-5), name

from whatwhere.attention import Unsupported
from whatwhere.attention.prepared import why_no_triton
assert why_no_triton() == "triton is not installed"
try:
    ww.attend(q, k, v, rule, backend="fused")
except Unsupported as error:
    print(error)

from whatwhere.nn import Decoder, DecoderConfig
model = Decoder(DecoderConfig(29, width=32, layers=2, heads=4, encoding="pope", train_length=16))
model(torch.randint(29, (2, 16))).sum().backward()
assert not any(each.startswith("whatwhere.kernels") for each in sys.modules)
"""


def test_attention_and_a_model_run_without_triton() -> None:
    assert "backend 'fused' can not compute this" in run_python(SCRIPT)
