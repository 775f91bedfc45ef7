"""On a GPU, in a fresh process: fused kernels, and `generate` compiling its decoding steps.

With a static cache transformers compiles the decoder by itself there (mode reduce-overhead).
"""

from __future__ import annotations

import json
import os

import pytest
from fresh import ROOT, run_python

pytestmark = [pytest.mark.gpu, pytest.mark.slow]

SCRIPT = """
import sys, json, torch, logging
logging.disable(logging.WARNING)
sys.path.insert(0, TESTS)
from hf.models import tiny_model, tokens, logits, LENGTH
from whatwhere import hf
torch.set_default_device(DEVICE)
failures = {}

def gap(found, expected):
    return float((found.float() - expected.float()).abs().max() / expected.float().abs().max())

for kind in ("llama", "mistral", "gemma3_text", "stablelm", "cohere2"):
    try:
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
    except Exception as error:
        failures[kind] = f"{type(error).__name__}: {error}"[:2000]
print(json.dumps(failures))
"""


def test_on_a_gpu() -> None:
    device = os.environ.get("WHATWHERE_DEVICE", "cuda")
    script = SCRIPT.replace("TESTS", repr(str(ROOT / "tests"))).replace("DEVICE", repr(device))
    assert json.loads(run_python(script).splitlines()[-1]) == {}
