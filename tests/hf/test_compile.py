"""torch.compile of a released model with `use` in force: one graph, the same numbers.

In processes of their own: dynamo can not trace the checks that tests run under.
"""

from __future__ import annotations

import json

import pytest
import torch
from fresh import ROOT, run_forked

LOADED = ("transformers.models.llama.modeling_llama", "transformers.generation")
SCRIPT = """
import sys, json, torch, logging
logging.disable(logging.WARNING)
sys.path.insert(0, TESTS)
from hf.models import tiny_model, tokens
from whatwhere import hf
torch.set_num_threads(1)
failures = {}

def check(name, found, expected):
    bound = 2e-5 * max(1.0, float(expected.abs().max()))
    gap = float((found - expected).abs().max())
    assert gap <= bound, (name, gap)

for kind, text, trained in CASES:
    torch._dynamo.reset()
    try:
        model = tiny_model(kind, **({"num_hidden_layers": 2} if kind == "llama" else {}))
        hf.use(model, text)
        compiled = torch.compile(model, fullgraph=True, backend=BACKEND)
        for length in LENGTHS:
            ids = tokens(2, length)
            mask = torch.ones_like(ids)
            mask[0, :4] = 0
            padded = {"attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
            # A mask must be there or not: its values are not read inside a graph.
            for given in ({}, padded):
                given["use_cache"] = False
                real = given.get("attention_mask", torch.ones_like(ids)).bool()
                with torch.set_grad_enabled(trained):
                    expected, found = model(ids, **given).logits, compiled(ids, **given).logits
                check(length, found[real], expected[real])
                if trained:
                    weight = model.model.layers[0].self_attn.k_proj.weight
                    a, = torch.autograd.grad(expected[real].square().sum(), weight)
                    b, = torch.autograd.grad(found[real].square().sum(), weight)
                    check("gradient", b, a)
    except Exception as error:
        failures[f"{kind} {text}"] = f"{type(error).__name__}: {error}"[:2500]
print(json.dumps(failures))
"""

DECODE = """
import sys, json, torch, logging
logging.disable(logging.WARNING)
sys.path.insert(0, TESTS)
from hf.models import tiny_model, tokens
from transformers import StaticCache
from whatwhere import hf
torch.set_num_threads(1)
model, ids = tiny_model("llama"), tokens(2, 16)
hf.use(model, "rope+yarn(factor=4)")
with torch.no_grad():
    whole = model(ids).logits
    cache = StaticCache(config=model.config, max_cache_len=32)
    parts = [model(ids[:, :9], past_key_values=cache).logits]
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch._dynamo.config.error_on_recompile = False
    for at in range(9, 16):
        parts.append(compiled(ids[:, at : at + 1], past_key_values=cache).logits)
        if at == 10:
            torch._dynamo.config.error_on_recompile = True
print(json.dumps(float((torch.cat(parts, 1) - whole).abs().max() / whole.abs().max())))
"""

# A cache of windows only counts in Python, so a compiled step has a symbol for it. A GPU's CUDA
# graphs hold parts of a graph as functions of their own: here too.
RING = """
import json, torch
from torch._inductor.scheduler import Scheduler
from whatwhere.hf.context import Context, Record, remember
Scheduler.should_partition = lambda self, node: None
torch._inductor.config.force_disable_caches = True
torch.set_num_threads(1)

def step(ring, positions, start):
    context = Context(None, "auto", positions, record=Record(ring, True), start=start)
    remember(context, ring, positions.shape[1], "cpu")

compiled = torch.compile(step, mode="reduce-overhead", dynamic=True, fullgraph=True)
ring, expected = torch.zeros(3, 9, dtype=torch.int64), torch.zeros(3, 9, dtype=torch.int64)
for start in (5, 8, 9, 31):
    positions = 100 + start + torch.arange(3)[:, None]
    compiled(ring, positions, start)
    expected[:, start % 9] = positions[:, 0]
    assert torch.equal(ring, expected), (start, ring)
print("right")
"""


def failures(
    backend: str, cases: list[tuple[str, str, bool]], lengths: tuple[int, ...] = (13, 21)
) -> dict[str, str]:
    script = SCRIPT.replace("CASES", repr(cases)).replace("BACKEND", repr(backend))
    script = script.replace("LENGTHS", repr(lengths))
    return json.loads(
        run_forked(script.replace("TESTS", repr(str(ROOT / "tests"))), loaded=LOADED).splitlines()[
            -1
        ]
    )


def test_there_is_no_graph_break() -> None:
    assert failures("aot_eager", [("llama", "rope+yarn(factor=4)", False)], (13,)) == {}


@pytest.mark.slow
def test_there_is_no_graph_break_elsewhere() -> None:
    cases = [("llama", "rope+yarn(factor=4)", True), ("llama", "alibi", False)]
    cases += [("gemma3_text", "rope", False), ("stablelm", "rope", False)]
    assert failures("aot_eager", cases) == {}


@pytest.mark.slow
def test_inductor_computes_the_same() -> None:
    cases = [("llama", "rope+yarn(factor=4)", True), ("mistral", "rope", False)]
    assert failures("inductor", cases) == {}


def test_decoding_over_a_static_cache_compiles_once() -> None:
    script = DECODE.replace("TESTS", repr(str(ROOT / "tests")))
    assert json.loads(run_forked(script, loaded=LOADED).splitlines()[-1]) < 2e-5


@pytest.mark.skipif(" " in torch.__file__, reason="Inductor's linker cuts paths at spaces")
def test_positions_are_kept_where_a_cache_counts_in_python() -> None:
    assert run_forked(RING).splitlines()[-1] == "right"
