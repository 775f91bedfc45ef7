"""A study is run cell by cell; what a kill leaves is gone on with, and nothing differs."""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from study import made_study

from whatwhere import report
from whatwhere.errors import UnknownName
from whatwhere.study import checkpoint, todo
from whatwhere.study.cells import Cell, Evaluation, Study
from whatwhere.study.data import Library, named_files
from whatwhere.study.observer import Observer
from whatwhere.study.reproduce import open_ledger, reproduce
from whatwhere.study.todo import missing
from whatwhere.study.training import Training
from whatwhere.tasks import draw

CLOCKS = ("seconds", "train_seconds", "commit")


def run(study: Study, out: Path, files: dict[str, str] | None = None, **options: Any) -> list[dict]:
    with open_ledger(study, out) as ledger:
        return reproduce(study, ledger, Library(files), out / "checkpoints", **options)


def plain(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in CLOCKS} for row in rows]


def kept(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """All rows of the indirect study, run without a break."""
    out = tmp_path_factory.mktemp("whole")
    return out, run(made_study.indirect(out), out)


def test_every_evaluation_is_a_row(whole: tuple[Path, list[dict[str, Any]]]) -> None:
    out, rows = whole
    assert sorted(kept(out), key=str) == sorted(rows, key=str)
    names = [(r["run"], r["seed"], r["metric"], r.get("probe", "")) for r in rows]
    one = [("accuracy", ""), ("nll", ""), ("accuracy", "±3")]
    assert sorted(names) == sorted(
        (cell, seed, *each) for cell in ("rope", "pope") for seed in (0, 1, 2) for each in one
    )
    first = kept(out)[0]
    assert (first["encoding"], first["task"], first["train_length"]) == ("rope", "indirect", 11)
    assert (first["steps"], first["n"], first["stacked"]) == (8, 40, 2)
    assert first["options"]["activation"] == "gelu"
    assert {r["options"]["drawn"]["shifts"] == [-3, 3] for r in rows if "probe" in r} == {True}
    assert len({r["value"] for r in rows if r["metric"] == "nll"}) == 6
    assert report.read(out) == kept(out)
    curve = (out / "curves.csv").read_text().splitlines()
    assert curve[0] == "run,seed,step,train_nll,valid_nll,valid_accuracy"
    assert len(curve) == 1 + 2 * 3 * 2


def test_accuracy_and_loss_are_those_of_the_weights(
    whole: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    """By hand, example by example, from the checkpoint of the two seeds that trained as one."""
    (path,) = (whole[0] / "checkpoints").glob("pope-*.seed0-1.pt")
    cell = made_study.indirect(tmp_path).cell("pope").on("cpu")
    data = draw("indirect", **made_study.STRINGS)
    training = Training(cell.config, data, cell.encoding, (0, 1), path)
    for seed, model in zip((0, 1), training.models(), strict=True):
        right, total = 0, 0.0
        for number in range(40):
            inputs, targets = data.examples("test", torch.tensor([number]))
            with torch.no_grad():
                answer = model(inputs)[0, -1].double().log_softmax(-1)
            right += int(answer.argmax() == targets[0, -1])
            total -= float(answer[targets[0, -1]])
        found = {r["metric"]: r["value"] for r in whole[1]
                 if (r["run"], r["seed"], r.get("probe")) == ("pope", seed, None)}  # fmt: skip
        assert found["accuracy"] == pytest.approx(right / 40)
        assert found["nll"] == pytest.approx(total / 40, rel=1e-5)


def test_keep_best_evaluates_the_weights_that_validation_chose(
    tmp_path: Path,
) -> None:
    """A rate that ruins the weights after the first validation: the first ones are scored."""
    study = made_study.indirect(tmp_path, seeds=(0,), steps=2, lr=3.0, warmup=2, final_lr=1.0)
    cells = tuple(
        replace(study.cells[0], name=name, keep_best=best, evaluations=(made_study.BOTH,))
        for name, best in (("last", False), ("best", True))
    )
    rows = run(replace(study, cells=cells), tmp_path)
    found = {r["run"]: r["value"] for r in rows if r["metric"] == "nll"}
    chosen = {r["run"]: r.get("selected_step") for r in rows}
    assert chosen == {"last": None, "best": 1}
    assert found["best"] < found["last"]


class Stops(Observer):
    """Asks to stop after so many steps or rows."""

    def __init__(self, steps: int = 10**9, rows: int = 10**9) -> None:
        self.steps, self.rows = steps, rows

    def step(self, step: int, loss: float, work: float) -> None:
        self.steps -= 1

    def evaluated(self, row: dict[str, Any], work: float) -> None:
        self.rows -= 1

    def stop(self) -> bool:
        return self.steps <= 0 or self.rows <= 0


def test_stopped_anywhere_it_ends_the_same(
    whole: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    """In the middle of a training with dropout, and between two evaluations of a cell."""
    study = made_study.indirect(tmp_path)
    for stops in (Stops(steps=5), Stops(rows=2), Stops(steps=13)):
        with pytest.raises(KeyboardInterrupt):
            run(study, tmp_path, observer=stops)
    rows = run(study, tmp_path)
    assert plain(rows) == plain(whole[1])
    assert plain(kept(tmp_path)) == plain(kept(whole[0]))
    assert (tmp_path / "curves.csv").read_text() == (whole[0] / "curves.csv").read_text()


class NoTraining(Observer):
    """Nothing may be trained."""

    def step(self, step: int, loss: float, work: float) -> None:
        raise AssertionError("trained again")


def test_a_line_that_a_kill_tore_is_measured_again(
    whole: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    text = (tmp_path / "rows.jsonl").read_text()
    (tmp_path / "rows.jsonl").write_text(text[:-40])
    run(made_study.indirect(tmp_path), tmp_path, observer=NoTraining())
    assert plain(kept(tmp_path)) == plain(kept(whole[0]))


def test_a_row_that_was_removed_is_the_only_one_measured_again(
    whole: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    first, *others = (tmp_path / "rows.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "rows.jsonl").write_text("".join(others))
    run(made_study.indirect(tmp_path), tmp_path, observer=NoTraining())
    assert plain(kept(tmp_path)) == plain([*map(json.loads, others), json.loads(first)])


def test_only_what_is_asked_for(tmp_path: Path) -> None:
    study = made_study.indirect(tmp_path, steps=2)
    rows = run(study, tmp_path, only=("pope",), seeds=(1,))
    assert {(r["run"], r["seed"]) for r in rows} == {("pope", 1)}
    with open_ledger(study, tmp_path) as ledger:
        assert missing(study.cell("pope"), ledger, Library()) == {0: 3, 1: 0, 2: 3}
        assert missing(study.cell("rope"), ledger, Library(), (2,)) == {2: 3}
    assert len(run(study, tmp_path, only=("pope",))) == 9


def test_streams_lengths_and_tuning(tmp_path: Path) -> None:
    study = made_study.streams(tmp_path)
    files = {"grch37_x": made_study.genome_file(tmp_path)}
    tuned = run(study, tmp_path, files, only=("x_yarn",))  # trains its start, without rows of it
    assert {r["run"] for r in kept(tmp_path)} == {"x_yarn"}
    rows = run(study, tmp_path, files)
    assert [r for r in rows if r["run"] == "x_yarn"] == tuned
    assert {r["encoding"] for r in tuned} == {"rope+yarn"}
    assert tuned[0]["options"]["tuned"] is True
    assert tuned[0]["options"]["start"]["encoding"] == "rope"
    assert {r["options"]["corpus"] for r in rows} == {"grch37_x"}
    base = [r for r in rows if r["run"] == "x_rope" and r["seed"] == 0]
    assert base[0]["selected_step"] >= 1
    of = {(r["evaluated_as"], r["eval_length"], r.get("positions", "")): r for r in base[1:]}
    assert set(of) == {
        (e, *at) for e in ("rope", "rope+yarn") for at in ((16, ""), (32, ""), (32, "0-16"),
                                                          (32, "16-32"))
    }  # fmt: skip
    halves = [of["rope", 32, place]["value"] for place in ("0-16", "16-32")]
    assert of["rope", 32, ""]["value"] == pytest.approx(sum(halves) / 2)
    assert of["rope", 16, ""]["n"] == of["rope", 32, ""]["n"] == 64
    # At the trained length YaRN does nothing, at twice that it does.
    assert of["rope", 16, ""]["value"] == pytest.approx(of["rope+yarn", 16, ""]["value"])
    assert of["rope", 32, ""]["value"] != of["rope+yarn", 32, ""]["value"]


class Work(Observer):
    """Adds up what it hears of."""

    def begin(self, total: float, done: float) -> None:
        self.total, self.done = total, done

    def step(self, step: int, loss: float, work: float) -> None:
        self.done += work

    def skipped(self, work: float) -> None:
        self.done += work


def test_all_of_the_work_is_heard_of_once(tmp_path: Path) -> None:
    """Also of a training that two cells start from, asked for or not, done before or not."""
    study, files = made_study.streams(tmp_path), {"grch37_x": made_study.genome_file(tmp_path)}
    again = replace(study.cells[1], name="x_again", columns={"tuned": "again"})
    study = replace(study, cells=(*study.cells, again))
    for out, only in (("one", None), ("two", ("x_yarn", "x_again")), ("two", None), ("one", None)):
        watch = Work()
        run(study, tmp_path / out, files, only=only, seeds=(0,), observer=watch)
        assert watch.done == pytest.approx(watch.total, rel=1e-9)


def test_the_start_is_what_it_starts_from(tmp_path: Path) -> None:
    """With a rate of almost nothing the tuned weights are the trained ones."""
    study = made_study.streams(tmp_path)
    first, second = study.cells
    second = replace(
        second, encoding="rope", config=replace(second.config, lr=1e-12, steps=1), shown=None
    )
    study = Study("made", tmp_path, (replace(first, keep_best=False), second))
    rows = run(study, tmp_path, {"grch37_x": made_study.genome_file(tmp_path)})
    lengths = {(r["run"], r["seed"]): r["value"] for r in rows
               if r["eval_length"] == 32 and not r.get("positions") and
               r["evaluated_as"] == "rope" and r["n"] == 64}  # fmt: skip
    assert lengths["x_yarn", 0] == pytest.approx(lengths["x_rope", 0], rel=1e-6)
    assert lengths["x_yarn", 1] == pytest.approx(lengths["x_rope", 1], rel=1e-6)
    assert lengths["x_rope", 0] != lengths["x_rope", 1]


def test_a_failed_seed_is_a_row_with_its_error(tmp_path: Path) -> None:
    """A rate that breaks the loss, and a learned table that is shorter than the strings."""
    study = made_study.indirect(tmp_path, steps=3, seeds=(0,))
    longer = Evaluation(
        metrics=("accuracy",), drawn={"lengths": (6, 7)}, probe="longer strings"
    )  # fmt: skip
    cells = (
        replace(study.cells[0], name="broken", config=replace(study.cells[0].config, lr=1e30)),
        replace(study.cells[0], name="learned", encoding="learned",
                evaluations=(made_study.BOTH, longer)),
    )  # fmt: skip
    rows = run(replace(study, cells=cells), tmp_path)
    broken = [r for r in rows if r["run"] == "broken"]
    assert len(broken) == 3
    assert all("training broke off at step" in r["error"] for r in broken)
    learned = {r.get("probe"): r for r in rows if r["run"] == "learned"}
    assert "value" in learned[None]
    assert "11" in learned["longer strings"]["error"]
    with open_ledger(replace(study, cells=cells), tmp_path, retry=True) as ledger:
        assert missing(cells[0], ledger, Library()) == {0: 3}


@pytest.mark.parametrize("fault", [TypeError("k is float32"), AssertionError("")])
def test_one_evaluation_that_breaks_ends_no_run(
    fault: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attention's dtypes are type errors, torch.compile's promises assertions, some of no words."""

    def broken(*given: Any) -> Any:
        raise fault

    study = made_study.indirect(tmp_path, steps=2, seeds=(0,))
    cell = replace(study.cells[0], evaluations=(Evaluation("speed"), made_study.BOTH))
    monkeypatch.setattr("whatwhere.study.measure.speeds", broken)
    rows = run(replace(study, cells=(cell,)), tmp_path)
    errors = {r["metric"]: r.get("error") for r in rows}
    said = str(fault) or "AssertionError"
    assert errors["decode_tokens_per_second"] == said
    assert errors["accuracy"] is None
    assert errors["nll"] is None


def test_speed_and_no_memory_where_nobody_counts_it(tmp_path: Path) -> None:
    study = made_study.indirect(tmp_path, steps=2, seeds=(0,))
    cell = replace(study.cells[0], evaluations=(Evaluation("speed"),))
    rows = run(replace(study, cells=(cell,)), tmp_path)
    assert [r["metric"] for r in rows] == [
        f"{what}_tokens_per_second" for what in ("train", "eval", "decode")
    ]
    assert all(r["value"] > 0 for r in rows)


def test_studies_share_trainings(tmp_path: Path) -> None:
    """The same training under another name in another study is read, not repeated."""
    study = made_study.indirect(tmp_path, steps=2, seeds=(0,))
    run(study, tmp_path, only=("rope",))
    other = replace(study, name="other", cells=(replace(study.cells[0], name="s_rope"),))

    with open_ledger(other, tmp_path / "other") as ledger:
        rows = reproduce(other, ledger, Library(), tmp_path / "checkpoints", observer=NoTraining())
    assert {r["run"] for r in rows} == {"s_rope"}


def test_a_training_of_another_run_is_waited_for(tmp_path: Path) -> None:
    """Two runs at once with one folder of checkpoints: one trains, the other takes what it made."""
    study = made_study.indirect(tmp_path, steps=2, seeds=(0,))
    rows = run(study, tmp_path, only=("rope",))
    (file,) = (tmp_path / "checkpoints").glob("*.pt")
    shared = tmp_path / "shared"

    class Other(NoTraining):
        """The other run: it is through when it was waited for."""

        waited = 0

        def waits(self, name: str) -> None:
            assert name == "rope, seed 0"
            self.waited += 1
            shutil.copy(file, shared)
            held.close()

    other = Other()
    with ExitStack() as held, open_ledger(study, tmp_path / "other") as ledger:
        held.enter_context(checkpoint.alone(shared / file.name, lambda: None))
        found = reproduce(study, ledger, Library(), shared, only=("rope",), observer=other)
    assert other.waited == 1
    assert plain(found) == plain(rows)


def test_rows_of_another_configuration_are_refused(tmp_path: Path) -> None:
    run(made_study.indirect(tmp_path, steps=2, seeds=(0,)), tmp_path, only=("rope",))
    with pytest.raises(ValueError, match=r"rows of rope .* steps was 2 and is now 3"):
        open_ledger(made_study.indirect(tmp_path, steps=3), tmp_path)
    with (
        open_ledger(made_study.indirect(tmp_path, steps=2), tmp_path),
        pytest.raises(ValueError, match="in use by another run"),
    ):
        open_ledger(made_study.indirect(tmp_path, steps=2), tmp_path)


def test_bad_input_is_refused_before_any_work(tmp_path: Path) -> None:
    study = made_study.indirect(tmp_path)
    for options, message in (
        ({"only": ("rop",)}, "unknown cell of made 'rop'; did you mean 'rope'"),
        ({"seeds": (7,)}, "seed 7 is none of these cells'"),
    ):
        with pytest.raises(ValueError, match=message):
            run(study, tmp_path, **options)
    with pytest.raises(ValueError, match=r"x_rope needs --data grch37_x=FILE \(GRCh37"):
        run(made_study.streams(tmp_path), tmp_path)
    with pytest.raises(FileNotFoundError, match="grch37_x=/no/such"):
        run(made_study.streams(tmp_path), tmp_path, {"grch37_x": "/no/such"})
    for cell, message in (
        (replace(study.cells[0], encoding="rop"), "did you mean 'rope'"),
        (replace(study.cells[0], config=made_study.config(train_length=9)), "has 11 tokens"),
        (replace(study.cells[0], evaluations=(made_study.BOTH,) * 2), "twice"),
    ):
        with pytest.raises(ValueError, match=message):
            run(replace(study, cells=(cell,)), tmp_path)
    with pytest.raises(ValueError, match="--device cuda:99 can not be used"):
        run(study.on("cuda:99"), tmp_path)
    assert not (tmp_path / "rows.jsonl").exists()


def test_a_share_of_the_steps_has_a_name_of_its_own(tmp_path: Path) -> None:
    study = made_study.streams(tmp_path).shortened(0.5)
    assert [cell.name for cell in study.cells] == ["x_rope@0.5", "x_yarn@0.5"]
    assert [cell.config.steps for cell in study.cells] == [2, 1]
    assert study.cells[1].start == "x_rope@0.5"
    assert made_study.streams(tmp_path).shortened(1.0) == made_study.streams(tmp_path)


def test_a_batch_in_pieces_is_the_same_batch(
    whole: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    study = made_study.indirect(tmp_path).in_pieces(3)
    assert [cell.config.accumulate for cell in study.cells] == [4, 4]  # of four examples
    rows = run(study, tmp_path, only=("rope",), seeds=(0, 1))
    before = [row for row in whole[1] if row["run"] == "rope" and row["seed"] < 2]
    assert [row["value"] for row in rows] == pytest.approx([row["value"] for row in before])
    with open_ledger(made_study.indirect(tmp_path), tmp_path, only=("pope",)):
        pass  # nobody asks for RoPE's rows
    with pytest.raises(ValueError, match="of rope by another configuration: accumulate"):
        run(made_study.indirect(tmp_path), tmp_path)


def test_memory_that_does_not_suffice_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Training, "run", full)
    rows = run(made_study.indirect(tmp_path), tmp_path, only=("rope",), seeds=(2,))
    said = "training broke off: CUDA out of memory; --pieces 16 takes less memory"
    assert {row["error"] for row in rows} == {said}


def test_studies_that_can_not_be_meant(tmp_path: Path) -> None:
    cell = made_study.indirect(tmp_path).cells[0]
    for cells, message in (
        ((cell, cell), "two cells of the name 'rope'"),
        ((replace(cell, start="rope"),), "unknown start of rope 'rope'"),
        ((cell, replace(cell, name="b", start="rope", config=made_study.config(seeds=(5,)))),
         "has seeds that rope, its start, has not"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            Study("made", tmp_path, cells)
    with pytest.raises(UnknownName, match="did you mean 'scores'"):
        Evaluation("score")
    with pytest.raises(ValueError, match="ascending"):
        Evaluation("lengths", lengths=(32, 16))
    with pytest.raises(ValueError, match="has no evaluations"):
        Cell("x", "rope", made_study.config(), "indirect", ())
    with pytest.raises(UnknownName, match="did you mean 'jsb'"):
        named_files(["jbs=a.json"])
    assert named_files(["jsb=a=b.json"]) == {"jsb": "a=b.json"}


def test_zero_shot_where_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --data zero_shot= there are no such rows; a task without its files says so."""
    from whatwhere.hf import decoder_inputs
    from whatwhere.study import zero_shot

    def made(model: Any, _: Any, tasks: list[str], limit: Any, data: Any, **options: Any) -> list:
        assert (limit, data) == (3, str(tmp_path))
        if tasks == ["cbt"]:
            raise FileNotFoundError("no file of cbt")
        return [zero_shot.Score("piqa", metric, 0.5, 3, None)
                for metric in ("accuracy_norm", "accuracy")]  # fmt: skip

    monkeypatch.setattr(zero_shot, "zero_shot", made)
    monkeypatch.setattr(todo, "harness_tasks", lambda: found.append(1))
    monkeypatch.setattr(decoder_inputs, "tokenizer_of", lambda *_: None)
    monkeypatch.setattr("whatwhere.tasks.books.gpt2", lambda: None)
    study = made_study.indirect(tmp_path, steps=2, seeds=(0,))
    each = Evaluation("zero_shot", tasks=("piqa", "cbt"), limit=3)
    study = replace(study, cells=(replace(study.cells[0], evaluations=(made_study.BOTH, each)),))
    found: list[int] = []
    assert len(run(study, tmp_path)) == 2
    assert not found
    rows = run(study, tmp_path, {"zero_shot": str(tmp_path)})[2:]
    assert found
    assert [(r["task"], r["metric"], r.get("value"), r.get("error")) for r in rows] == [
        ("piqa", "accuracy", 0.5, None), ("cbt", "accuracy", None, "no file of cbt"),
    ]  # fmt: skip


def test_zero_shot_that_can_not_be_run_is_said_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = made_study.indirect(tmp_path, seeds=(0,))
    each = Evaluation("zero_shot", tasks=("piqa",))
    study = replace(study, cells=(replace(study.cells[0], evaluations=(each,)),))

    def without() -> None:
        raise ModuleNotFoundError("zero-shot tasks need lm-evaluation-harness")

    monkeypatch.setattr(todo, "harness_tasks", without)
    with pytest.raises(ModuleNotFoundError, match="need lm-evaluation-harness"):
        run(study, tmp_path / "out", {"zero_shot": str(tmp_path)}, observer=NoTraining())
    monkeypatch.setattr(todo, "harness_tasks", lambda: None)
    with pytest.raises(NotADirectoryError, match="give the folder with the tasks' files"):
        run(study, tmp_path / "out", {"zero_shot": __file__}, observer=NoTraining())
    assert not (tmp_path / "out" / "checkpoints").exists()
