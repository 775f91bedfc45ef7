"""On a GPU, in a fresh process: fused kernels, and `generate` compiling its decoding steps.

With a static cache transformers compiles the decoder by itself there (mode reduce-overhead).
"""

from __future__ import annotations

import os

import pytest
from fresh import ROOT, run_python

pytestmark = [pytest.mark.gpu, pytest.mark.slow]

SCRIPT = """
import sys, torch, logging
logging.disable(logging.WARNING)
sys.path.insert(0, TESTS)
from hf.models import tiny_model, tokens, logits
from whatwhere import hf
torch.set_default_device(DEVICE)

def gap(found, expected):
    return float((found.float() - expected.float()).abs().max() / expected.float().abs().max())

kind = KIND
model, ids = tiny_model(kind), tokens(3, 21)
mask = torch.ones_like(ids)
mask[1, :4] = 0
settings = {"attention_mask": mask, "max_new_tokens": 12, "do_sample": False}
expected, answer = logits(model, ids), model.generate(ids, **settings)
with hf.use(model):
    # Float32: the scores of two kernels, one of them of GPU matrix units in full precision.
    assert gap(logits(model, ids), expected) < 2e-5, "logits"
    for cache in ("dynamic", "static"):
        found = model.generate(ids, cache_implementation=cache, **settings)
        assert torch.equal(found, answer), cache
breaks = dict(torch._dynamo.utils.counters["graph_break"])
assert not breaks, breaks
half = model.bfloat16()
stock = gap(logits(half, ids), expected)
with hf.use(half):
    assert gap(logits(half, ids), expected) < 2 * stock + 0.02, "bfloat16"
for text in ("rope+rerope(window=8)", "rope+yarn(factor=4)+logn", "pope"):
    model = tiny_model(kind)
    with hf.use(model, text):
        fast = logits(model, ids)
    with hf.use(model, text, backend="reference"):
        assert gap(fast, logits(model, ids)) < 2e-5, text
print("right")
"""


@pytest.mark.parametrize("kind", ["llama", "mistral", "gemma3_text", "stablelm", "cohere2"])
def test_on_a_gpu(kind: str) -> None:
    device = os.environ.get("WHATWHERE_DEVICE", "cuda")
    script = SCRIPT.replace("TESTS", repr(str(ROOT / "tests"))).replace("DEVICE", repr(device))
    assert run_python(script.replace("KIND", repr(kind))).splitlines()[-1] == "right"
