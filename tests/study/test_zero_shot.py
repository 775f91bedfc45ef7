"""Zero-shot tasks without lm-eval: files, names, means, what is kept. (With: the file beside.)"""

from __future__ import annotations

import gzip
import json
import lzma
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from whatwhere.errors import UnknownName
from whatwhere.study import rows, zero_shot_cbt, zero_shot_command, zero_shot_data
from whatwhere.study import zero_shot as run
from whatwhere.study.zero_shot import Score, zero_shot
from whatwhere.study.zero_shot_tasks import Part, configure, parts_of

PIQA = {"goal": "open", "sol1": "push", "sol2": "pull", "label": 1}


def lines(path: Path, *found: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    opener: Callable[..., Any] = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix, open)
    with opener(path, "wt") as file:
        file.writelines(json.dumps(each) + "\n" for each in found)
    return path


def request(task: str, number: int, document: dict[str, Any], context: str) -> dict[str, Any]:
    asked = {"context": context, "continuation": " x"}
    return {"task_name": task, "doc_id": number, "doc": document, "request": asked}


def test_a_task_of_its_own_comes_before_the_package(tmp_path: Path) -> None:
    package = lines(tmp_path / "b/oe_eval_tasks/lambada/bpb_0shot/requests.jsonl.gz")
    assert zero_shot_data.find("lambada_openai", [tmp_path / "a", tmp_path / "b"]) == package
    own = lines(tmp_path / "b/lambada_openai.jsonl.xz", {"text": "a b"})
    assert zero_shot_data.find("lambada_openai", [tmp_path / "a", tmp_path / "b"]) == own
    assert zero_shot_data.find("cbt", [tmp_path]) is None


def test_requests_are_turned_back_each_document_once(tmp_path: Path) -> None:
    document = {"id": "m1", "query": "Question: Why?\nAnswer:", "choices": ["so", "no"], "gold": 1}
    other = document | {"id": "m2", "query": "Question: How?\nAnswer:", "gold": 0}
    path = lines(
        tmp_path / "arc_easy/test_rc_5shot/requests.jsonl.gz",
        *(request("arc_easy", 0, document, "five shots") for _ in "ab"),
        request("arc_easy", 1, other, "five shots"),
        *(request("arc_easy", 1_000_000, document, "Answer:") for _ in "ab"),
        request("arc_easy", 1_000_001, other, "Answer:"),
    )
    assert zero_shot_data.find("arc_easy", [tmp_path]) == path
    choices = {"text": ["so", "no"], "label": ["A", "B"]}
    assert zero_shot_data.rows_of("arc_easy", path) == [
        {"question": "Why?", "choices": choices, "answerKey": "B"},
        {"question": "How?", "choices": choices, "answerKey": "A"},
    ]


def test_lambada_is_the_context_and_its_word(tmp_path: Path) -> None:
    document = {"id": 0, "query": "He drank", "choices": ["x"]}
    path = lines(
        tmp_path / "lambada/bpb_0shot/requests.jsonl.gz",
        request("lambada", 0, document, "He drank"),
    )
    assert zero_shot_data.rows_of("lambada_openai", path) == [{"text": "He drank x"}]


def test_blimp_as_one_table(tmp_path: Path) -> None:
    path = tmp_path / "blimp.tsv.xz"
    with lzma.open(path, "wt") as file:
        file.write("island\tsyntax\tterm\tWho ran?\tWho Bob ran?\n")
    (row,) = zero_shot_data.rows_of("blimp", path)
    assert row == {"UID": "island", "sentence_good": "Who ran?", "sentence_bad": "Who Bob ran?"}


def cbt(folder: Path, sentences: int = 20) -> None:
    for part, answer in (("CN", "cat"), ("NE", "Bob")):
        story = "".join(f"{i} Line {i} .\n" for i in range(1, sentences + 1))
        question = f"21 The XXXXX did n't run , `` he '' said .\t{answer}\t\tdog|{answer}|Ann\n"
        (folder / f"cbtest_{part}_test_2500ex.txt").write_text((story + question + "\n") * 2)


def test_cbt_as_its_authors_publish_it(tmp_path: Path) -> None:
    cbt(tmp_path)
    path = zero_shot_data.find("cbt", [tmp_path])
    assert path is not None
    found = zero_shot_data.rows_of("cbt", path)
    assert [(row["part"], row["answer"], len(row["sentences"])) for row in found] == [
        *[("CN", "cat", 20)] * 2,
        *[("NE", "Bob", 20)] * 2,
    ]
    texts = zero_shot_cbt.texts(found[2])
    assert texts[1].startswith("Passage: Line 1. Line 2. Line 3.")
    assert texts[1].endswith('\nQuestion: The Bob didn\'t run, "he" said.')
    assert len(texts) == 3
    assert zero_shot_cbt.gold(found[2]) == 1


def test_what_is_written_is_what_was_read(tmp_path: Path) -> None:
    lines(tmp_path / "in/piqa.jsonl", PIQA, PIQA | {"label": 0, "more": 3})
    (path,) = zero_shot_data.write(["piqa"], [tmp_path / "in"], tmp_path / "out")
    assert path.name == "piqa.jsonl.xz"
    assert zero_shot_data.rows_of("piqa", path) == [PIQA, PIQA | {"label": 0}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("piqa.jsonl", '{"goal": 1}\n', "row 1 lacks sol1, sol2, label; piqa needs goal"),
        ("piqa.jsonl", "[]\n", r"piqa\.jsonl:1 is no JSON object"),
        ("piqa.jsonl", "\n", "holds no row"),
        ("blimp.tsv", "a\tb\n", r"blimp\.tsv:1 has 2 columns; BLiMP's table has 5"),
        ("piqa.csv", "a\n", "is of no known kind"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        zero_shot_data.rows_of(name.partition(".")[0], tmp_path / name)


def test_a_short_story_is_refused(tmp_path: Path) -> None:
    cbt(tmp_path, sentences=19)
    with pytest.raises(ValueError, match="after 19 sentences; CBT has all three after 20"):
        zero_shot_data.rows_of("cbt", tmp_path / "cbtest_CN_test_2500ex.txt")


def test_names() -> None:
    assert parts_of("cbt") == [Part("cbt", "cbt", "CN"), Part("cbt", "cbt", "NE")]
    assert parts_of("cbt_NE") == [Part("cbt_NE", "cbt", "NE")]
    for wrong, meant in (("piqua", "piqa"), ("cbt_CM", "cbt_CN"), ("hella_swag", "hellaswag")):
        with pytest.raises(UnknownName, match=f"did you mean '{meant}'"):
            parts_of(wrong)


def test_a_configuration_includes_that_of_lm_eval(tmp_path: Path) -> None:
    lines(tmp_path / "cbt.jsonl", *(
        {"part": part, "sentences": [], "question": "", "options": [], "answer": ""}
        for part in ("CN", "CN", "NE")
    ))  # fmt: skip
    out = tmp_path / "out"
    out.mkdir()
    configure(parts_of("cbt"), out, [tmp_path])
    config = (out / "cbt_CN.yaml").read_text().splitlines()
    assert "doc_to_choice: !function whatwhere.study.zero_shot_cbt.texts" in config
    assert 'dataset_path: "json"' in config
    assert len((out / "cbt_CN.jsonl").read_text().splitlines()) == 2
    configure(parts_of("cbt"), out, None)  # the hub
    assert 'dataset_path: "cam-cst/cbt"' in (out / "cbt_NE.yaml").read_text()


def asked_of(part: Part) -> list[Score]:
    """Scores made of the part's name, to tell the parts apart."""
    return [Score(part.asked, "accuracy", 0.5 + 0.25 * (part.name == "NE"), 10, 0.03)]


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """lm-eval is there, and scores at once; the list says what it was asked."""
    calls: list[str] = []

    def runner(*_: Any) -> Callable[[Part], list[Score]]:
        def one(part: Part) -> list[Score]:
            calls.append(part.known_as)
            return asked_of(part)

        return one

    monkeypatch.setattr(run, "_runner", runner)
    for module in (run, zero_shot_command):
        monkeypatch.setattr(module, "harness_tasks", lambda: Path("/lm_eval/tasks"))
    monkeypatch.setattr("whatwhere.study.zero_shot_tasks.harness_tasks", lambda: Path("/lm_eval"))
    return calls


def test_a_task_is_the_plain_mean_of_its_parts(ran: list[str], tmp_path: Path) -> None:
    steps: list[Any] = []
    scores = zero_shot(None, None, ["cbt", "piqa"], observe=steps.append)
    assert scores[0] == Score("cbt", "accuracy", 0.625, 20, pytest.approx(math.sqrt(2) * 0.015))
    assert scores[1] == Score("piqa", "accuracy", 0.5, 10, pytest.approx(0.03))
    assert ran == ["cbt_CN", "cbt_NE", "piqa"]
    assert [(step.done, step.total) for step in steps] == [(1, 3), (2, 3), (3, 3)]


def test_parts_that_are_kept_are_not_run_again(ran: list[str]) -> None:
    kept: dict[str, Sequence[Score]] = {"cbt_CN": [Score("cbt", "accuracy", 1.0, 30, None)]}
    (score,) = zero_shot(None, None, ["cbt"], kept=kept)
    assert (score.value, score.stderr, ran) == (0.875, None, ["cbt_NE"])


@pytest.fixture
def command(ran: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The command line on a model that is only a folder."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")

    class Config:
        model_type = "llama"

    class Model:
        config = Config()

    monkeypatch.setattr("whatwhere.hf.loading.load_model", lambda *_: (Model(), None))
    monkeypatch.setattr("importlib.metadata.version", lambda _: "0.4.13")
    lines(tmp_path / "data/piqa.jsonl", PIQA)
    cbt(tmp_path / "data")
    out = tmp_path / "rows.jsonl"

    def call(*more: str) -> int:
        data = ("--data", str(tmp_path / "data")) if "--data" not in more else ()
        line = (str(model), "--tasks", "cbt,piqa", "--out", str(out), *data, *more)
        return zero_shot_command.main(line)

    call.out, call.model, call.data = out, model, tmp_path / "data"  # type: ignore[attr-defined]
    return call


def test_a_killed_run_goes_on_by_part(command: Any, ran: list[str], monkeypatch: Any) -> None:
    whole = run.zero_shot

    def killed(*arguments: Any, **options: Any) -> Any:
        def observe(step: Any) -> None:
            options_observe(step)
            if step.part.known_as == "cbt_CN":
                raise KeyboardInterrupt

        options_observe = options.pop("observe")
        return whole(*arguments, observe=observe, **options)

    monkeypatch.setattr(zero_shot_command, "zero_shot", killed)
    assert command() == 130
    assert (ran, rows.read_rows(command.out)) == (["cbt_CN"], [])
    monkeypatch.setattr(zero_shot_command, "zero_shot", whole)
    assert command() == 0
    assert ran == ["cbt_CN", "cbt_NE", "piqa"]
    found = rows.read_rows(command.out)
    assert [(row["task"], row["metric"], row["value"]) for row in found] == [
        ("cbt", "accuracy", 0.625),
        ("piqa", "accuracy", 0.5),
    ]
    assert found[0]["harness"] == "lm_eval 0.4.13"
    assert command() == 0  # all is there: nothing runs, no row is doubled
    assert (len(ran), rows.read_rows(command.out)) == (3, found)


def test_other_weights_data_or_settings_are_measured_anew(command: Any, ran: list[str]) -> None:
    assert command() == 0
    assert command("--limit", "7") == 0
    assert len(ran) == 6
    lines(command.data / "piqa.jsonl", PIQA, PIQA)
    assert command() == 0
    assert ran[6:] == ["piqa"]
    (command.model / "config.json").write_text("{ }")
    assert command() == 0
    assert len(ran) == 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tasks", "piqa,helaswag"], "did you mean 'hellaswag'"),
        (["--factor", "4"], "--factor goes with --encoding"),
        (["--encoding", "pope+yarn"], "--encoding is for models of ours, not for Model"),
        (["--tasks", "arc_easy"], "arc_easy is in none of"),
        (["--data", "/nowhere"], "data is '/nowhere', which is no folder"),
        (["--limit", "0"], "limit is 0"),
        (["--tasks", ","], "--tasks is ','; give names"),
    ],
    ids=str,
)
def test_bad_command_lines(command: Any, capsys: Any, arguments: list[str], message: str) -> None:
    assert command(*arguments) == 2
    assert message in capsys.readouterr().err


def test_data_to_travel(command: Any, tmp_path: Path, capsys: Any) -> None:
    assert command("--write-data", str(tmp_path / "small")) == 0
    assert sorted(path.name for path in (tmp_path / "small").iterdir()) == [
        "cbt.jsonl.xz",
        "piqa.jsonl.xz",
    ]
    assert command("--tasks", "hellaswag", "--write-data", str(tmp_path / "small")) == 2
    assert "hellaswag is in none of" in capsys.readouterr().err


def test_without_lm_eval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whatwhere.study.zero_shot_tasks.find_spec", lambda _: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'whatwhere\[zero-shot\]'"):
        zero_shot(None, None, ["piqa"])


@pytest.mark.usefixtures("unchecked", "ran")
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("piqa",), TypeError, "tasks is 'piqa'; give a list of names"),
        (([],), TypeError, r"tasks is \[\]"),
        ((["piqa"], 1.5), TypeError, "limit is 1.5"),
        ((["piqa"], None, "/nowhere"), FileNotFoundError, "which is no folder"),
    ],
    ids=str,
)
def test_bad_calls(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        zero_shot(None, None, *arguments)
