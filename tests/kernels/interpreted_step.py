"""A whole compiled training step of a stack of one seed, as Python on a CPU. Run by
test_interpreter.py.

As a language model trains on a GPU, small: blocks compiled, our kernels in them, the batch in
pieces, clipping and AdamW. What the compiler was told of our operators meets what they give.
In a process of its own: the compiler can not look through the tests' type checks.
"""

from __future__ import annotations

from fresh import run_forked

SCRIPT = """
import sys
from functools import partial
sys.path.insert(0, "tests")
import torch
from study.toy import toy_config, toy_task
from whatwhere.attention import attend
from whatwhere.nn import Decoder, DecoderConfig
from whatwhere.study import stacked
from whatwhere.study.step import Step
from whatwhere.tasks import Windows

torch.compile = partial(torch.compile, backend="aot_eager")
task = toy_task()

def trained(encoding, backend, compiled):
    shape = DecoderConfig(
        task.vocab_size, width=32, layers=1, heads=2, kv_heads=1, activation="gelu",
        encoding=encoding, train_length=8,
    )
    torch.manual_seed(0)
    model = Decoder(shape)
    start = [each.detach().clone() for each in model.parameters()]
    config = toy_config(batch_size=2, accumulate=2, train_length=8, warmup=1, compile=compiled)
    stacked.attend = partial(attend, backend=backend)
    step = Step(stacked.Stacked([model]), Windows(task, 8), config, torch.tensor([3]))
    step()
    moved = [now.detach() - then for now, then in zip(model.parameters(), start, strict=True)]
    assert all(each.any() for each in moved)
    return step.losses[:1], *moved

for encoding in ("rope", "pope(delta_init=uniform)"):
    found, wanted = trained(encoding, "fused", True), trained(encoding, "reference", False)
    for mine, true in zip(found, wanted, strict=True):
        # Of weights, how far they moved: AdamW makes a step of a gradient's rounding error, too.
        torch.testing.assert_close(mine, true, rtol=1e-3, atol=3e-5)
print("same", torch._dynamo.utils.counters["graph_break"])
"""


def test_one_seed_trains_as_by_the_definition() -> None:
    assert run_forked(SCRIPT).strip() == "same Counter()"
