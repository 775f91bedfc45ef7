"""A training of several seeds: the arithmetic of the plain loop, and nothing lost by a kill."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fresh import ROOT, run_forked
from study.toy import Until, learning_rate

from whatwhere import tasks
from whatwhere.nn import Decoder
from whatwhere.study.config import Config
from whatwhere.study.held_out import scores
from whatwhere.study.model import build_model
from whatwhere.study.training import Training
from whatwhere.tasks import IGNORED, Drawn


def drawn(**options: Any) -> Drawn:
    short = {"lengths": (3, 6), "shifts": range(-2, 3), "valid": 100, "test": 100}
    return tasks.draw("indirect", **short, **options)


def config(**options: Any) -> Config:
    return replace(
        Config(
            task="indirect", encodings=("pope",), width=32, layers=2, heads=2, steps=12,
            batch_size=8, train_length=drawn().length, warmup=4, valid_points=3, clip=0.5,
        ),
        **options,
    )  # fmt: skip


def trained(path: Path, seeds: tuple[int, ...] = (0, 1), **options: Any) -> Training:
    made = Training(config(**options), drawn(), "pope", seeds, path)
    made.run(Until(), 1.0)
    return made


def plain(seed: int, device: torch.device) -> tuple[Decoder, list[float]]:
    """The loop one would write: draw, backward, clip, step."""
    plan, data = config(), drawn()
    model = build_model(plan, "pope", data.vocab_size, seed).to(device)
    own = list(model.encodings.parameters())
    norms = [p for p in model.parameters() if p.dim() < 2]
    rest = [p for p in model.parameters() if all(p is not q for q in own + norms)]
    groups = [{"params": own + norms, "weight_decay": 0.0}, {"params": rest}]
    betas = (plan.beta1, plan.beta2)
    optimizer = torch.optim.AdamW(groups, betas=betas, weight_decay=plan.weight_decay)
    losses = []
    for step in range(plan.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, plan)
        inputs, targets = data.batch(seed, step, plan.batch_size, device)
        loss = F.cross_entropy(model(inputs).mT, targets, ignore_index=IGNORED)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), plan.clip)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return model, losses


@pytest.mark.parametrize("accumulate", [1, 2])
def test_it_is_the_plain_loop_of_each_seed(
    accumulate: int, tmp_path: Path, device: torch.device
) -> None:
    watch = Until()
    made = Training(
        config(accumulate=accumulate, device=str(device)), drawn(), "pope", (3, 5), tmp_path / "a"
    )
    made.run(watch, 1.0)
    wanted = [plain(seed, device) for seed in (3, 5)]
    means = [sum(both) / 2 for both in zip(*(losses for _, losses in wanted), strict=True)]
    assert watch.losses == pytest.approx(means, rel=1e-5)
    for decoder, (model, _) in zip(made.models(), wanted, strict=True):
        for one, true in zip(decoder.parameters(), model.parameters(), strict=True):
            torch.testing.assert_close(one, true, rtol=1e-3, atol=2e-5)


def test_a_stop_changes_nothing(tmp_path: Path) -> None:
    options: dict[str, Any] = {"dropout": 0.1}
    whole = trained(tmp_path / "whole", **options)
    broken = Training(config(**options), drawn(), "pope", (0, 1), tmp_path / "broken")
    for step in (2, 5, 7):
        with pytest.raises(KeyboardInterrupt):
            broken.run(Until(step), 1.0)
        torch.manual_seed(step)  # another process would have other states
        broken = Training(config(**options), drawn(), "pope", (0, 1), tmp_path / "broken")
    broken.run(Until(), 1.0)
    assert broken.curve == whole.curve
    for one, other in zip(whole.models(), broken.models(), strict=True):
        for a, b in zip(one.parameters(), other.parameters(), strict=True):
            assert torch.equal(a, b)
    again = Training(config(**options), drawn(), "pope", (0, 1), tmp_path / "broken")
    assert again.finished
    assert again.curve == whole.curve


def test_the_best_on_validation_is_kept(tmp_path: Path) -> None:
    few = drawn(train=4)  # which it learns by heart
    plan = config(lr=1e-2, steps=30, valid_points=6)
    made = Training(plan, few, "pope", (0, 1), tmp_path / "a", keep_best=True)
    with pytest.raises(ValueError, match="finished"):
        made.models(best=True)
    made.run(Until(), 1.0)
    for s, seed in enumerate(made.seeds):
        points = [point for point in made.curve if point["seed"] == seed]
        lowest = min(points, key=lambda point: point["valid_nll"])
        assert lowest["step"] < made.step
        kept = made.best[s]
        assert kept is not None
        assert kept["step"] == lowest["step"]
    made.models(best=True)
    limit = made.config.valid_tokens
    found = scores(made.stacked, made.data, "valid", limit).nll
    kept_nll = [best["nll"] for best in made.best if best]
    assert found == pytest.approx(kept_nll, rel=1e-5)


def test_one_seed_fails_and_the_other_goes_on(tmp_path: Path) -> None:
    states = [build_model(config(), "pope", drawn().vocab_size, s).state_dict() for s in (0, 1)]
    states[0] = {name: tensor.clone() for name, tensor in states[0].items()}
    states[0]["blocks.1.mlp.out.weight"][0, 0] = torch.inf
    made = Training(config(), drawn(), "pope", (0, 1), tmp_path / "a", start=states)
    made.run(Until(), 1.0)
    assert made.failed[1] is None
    assert made.failed[0] is not None
    assert "step 0" in made.failed[0]
    alone = Training(config(), drawn(), "pope", (1,), tmp_path / "b")
    alone.run(Until(), 1.0)
    for a, b in zip(made.models()[1].parameters(), alone.models()[0].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=2e-5)


def test_a_start_is_where_it_begins(tmp_path: Path) -> None:
    first = trained(tmp_path / "a")
    states = [decoder.state_dict() for decoder in first.models()]
    tuned = Training(config(lr=1e-9), drawn(), "pope", (0, 1), tmp_path / "b", start=states)
    tuned.run(Until(), 1.0)
    assert tuned.curve[-1]["valid_nll"] == pytest.approx(first.curve[-1]["valid_nll"], rel=1e-4)


def test_bad_input(tmp_path: Path) -> None:
    for seeds in ((), (1, 1)):
        with pytest.raises(ValueError, match="seeds"):
            Training(config(), drawn(), "pope", seeds, tmp_path / "a")
    with pytest.raises(ValueError, match="multiple of 1 process"):
        Training(config(accumulate=3), drawn(), "pope", (0,), tmp_path / "a")
    trained(tmp_path / "a")
    with pytest.raises(OSError, match=r"seeds was \[0, 1\] and is now \[0, 2\]"):
        Training(config(), drawn(), "pope", (0, 2), tmp_path / "a")
    with pytest.raises(OSError, match="steps was 12 and is now 13"):
        Training(config(steps=13), drawn(), "pope", (0, 1), tmp_path / "a")


# The variables are torchrun's, which itself is tested by tests/extend/test_adapt_processes.py.
TWO = """
import importlib.util, os, socket, sys, torch
torch.set_num_threads(1)
sys.path.insert(0, TESTS)
spec = importlib.util.spec_from_file_location("t", TESTS + "/study/test_training.py")
t = importlib.util.module_from_spec(spec)
spec.loader.exec_module(t)
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
os.environ |= {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
rank = 0 if (other := os.fork()) else 1
os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
made = t.trained(t.Path("two"))
assert made.accelerator.num_processes == 2
if made.accelerator.is_main_process:
    torch.save([made.curve, [model.state_dict() for model in made.models()]], "told")
torch.distributed.destroy_process_group()
if other:
    assert os.waitpid(other, 0)[1] == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_two_processes_are_one(tmp_path: Path) -> None:
    """Each reads half of every batch; only the order of a sum differs."""
    script = TWO.replace("TESTS", repr(str(ROOT / "tests")))
    run_forked(script, tmp_path, loaded=("accelerate",))
    curve, states = torch.load(tmp_path / "told", weights_only=True)
    one = trained(tmp_path / "one")
    for a, b in zip(curve, one.curve, strict=True):
        assert a == pytest.approx(b, rel=1e-4)
    for state, decoder in zip(states, one.models(), strict=True):
        for name, tensor in decoder.state_dict().items():
            torch.testing.assert_close(state[name], tensor, rtol=1e-3, atol=2e-5)
