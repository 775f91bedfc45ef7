"""A step never asks the device for a number: else no CUDA graph could hold it."""

from __future__ import annotations

from fresh import run_forked

SCRIPT = """
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from whatwhere import tasks
from whatwhere.study.config import Config
from whatwhere.study.model import build_model
from whatwhere.study.stacked import Stacked
from whatwhere.study.step import Step

# What a CPU alone looks at (NaN, positions past a table) is left out while compiling.
torch.compiler.is_compiling = lambda: True
torch.nn.Module.to = lambda self, *_: self


def run(encoding, data, then=lambda step: None):
    config = Config(task="indirect", width=32, layers=2, heads=2, dropout=0.1, batch_size=4,
                    accumulate=2, train_length=data.length)
    with FakeTensorMode(allow_non_fake_inputs=True):
        models = [build_model(config, encoding, data.vocab_size, seed) for seed in (0, 1)]
        step = Step(Stacked(models).train(), data, config, torch.arange(2))
        for _ in range(2):
            step()
        then(step)
    print(encoding, data.name, tuple(step.losses.shape))


stream = torch.arange(900) % 50
run("pope", tasks.draw("indirect"))
run("learned", tasks.draw("indirect"))
run("rope", tasks.Windows(tasks.Task("stream", 50, stream, stream, stream, "x", "d"), 16))
try:
    run("rope", tasks.draw("indirect"), lambda step: float(step.losses[0, 0]))
except Exception as error:
    print(type(error).__name__)
"""


def test_nothing_is_read() -> None:
    """Drawn examples and streams; the last shows that reading would be seen."""
    told = run_forked(SCRIPT).splitlines()
    assert told == [
        "pope indirect (64, 2)", "learned indirect (64, 2)", "rope stream (64, 2)",
        "DataDependentOutputException",
    ]  # fmt: skip


COMPILED = """
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from whatwhere import tasks
from whatwhere.study.config import Config
from whatwhere.study.model import build_model
from whatwhere.study.stacked import Stacked
from whatwhere.study.step import Step

counter, compile_ = CompileCounterWithBackend("aot_eager"), torch.compile
torch.compile = lambda f, **options: compile_(f, backend=counter, fullgraph=True, **options)
data, losses = tasks.draw("indirect"), []
for compiled in (False, True):
    config = Config(task="indirect", width=32, layers=5, heads=2, batch_size=4, compile=compiled,
                    train_length=data.length)
    models = [build_model(config, "pope", data.vocab_size, seed) for seed in (0, 1)]
    step = Step(Stacked(models).train(), data, config, torch.arange(2))
    for _ in range(3):
        step()
    losses.append(step.losses[:3])
print(counter.frame_count, torch.allclose(*losses, rtol=1e-5))
"""


def test_all_blocks_share_a_graph() -> None:
    """Three graphs, none broken: blocks, the last block, the loss."""
    assert run_forked(COMPILED) == "3 True\n"
