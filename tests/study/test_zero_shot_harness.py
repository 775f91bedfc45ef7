"""Zero-shot tasks through lm-eval itself, on local files, against sums made by hand.

lm-eval brings scikit-learn and scipy (200 MB with the rest) and is not among what the tests
install: `pip install -c constraints.txt -e '.[zero-shot]'`.
"""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
import torch.nn.functional as F
from tokenizers import models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from whatwhere.hf import DecoderForCausalLM
from whatwhere.nn import Decoder, DecoderConfig
from whatwhere.study import rows, zero_shot_command
from whatwhere.study.zero_shot import Score, zero_shot
from whatwhere.study.zero_shot_cbt import texts

pytest.importorskip("lm_eval")

pytestmark = pytest.mark.slow

END = "<|endoftext|>"
WORDS = ["the", "a", "cat", "dog", "sat", "ran", "on", "under", "mat", "then", "was", "Bob"]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """Bytes, and the end of text."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate(letters)} | {END: len(letters)}
    inner = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=END)


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    torch.manual_seed(0)
    model = Decoder(
        DecoderConfig(257, width=32, layers=2, heads=2, encoding="pope", train_length=512)
    )
    for each in model.parameters():
        torch.nn.init.normal_(each, mean=1.0 if each.dim() == 1 else 0.0, std=0.2)
    return model.eval()


def sentence(generator: random.Random) -> str:
    return " ".join(generator.choices(WORDS, k=generator.randint(3, 7)))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven items of every task, of lengths that differ."""
    folder, g = tmp_path_factory.mktemp("data"), random.Random(3)
    s = lambda: sentence(g)  # noqa: E731
    labels = ["A", "B", "C", "D"]
    items: dict[str, list[dict[str, Any]]] = {
        "piqa": [
            {"goal": s(), "sol1": s(), "sol2": s(), "label": g.randint(0, 1)} for _ in "1234567"
        ],
        "lambada_openai": [{"text": s()} for _ in "1234567"],
        "arc_easy": [
            {
                "question": s(),
                "choices": {"text": [s() for _ in labels], "label": labels},
                "answerKey": g.choice(labels),
            }
            for _ in "1234567"
        ],
        "hellaswag": [
            {
                "activity_label": "Doing",
                "ctx_a": s(),
                "ctx_b": s(),
                "endings": [s() for _ in labels],
                "label": str(g.randint(0, 3)),
            }
            for _ in "1234567"
        ],
        "blimp": [
            {"UID": uid, "sentence_good": s(), "sentence_bad": s()}
            for uid in ("adjunct_island", "wh_island")
            for _ in "1234567"
        ],
        "cbt": [
            {
                "part": part,
                "sentences": [s(), s()],
                "question": "the XXXXX sat",
                "options": (options := g.sample(WORDS, 5)),
                "answer": g.choice(options),
            }
            for part in ("CN", "NE")
            for _ in "1234567"
        ],
    }
    for task, found in items.items():
        (folder / f"{task}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in found))
    return folder


def items(data: Path, task: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (data / f"{task}.jsonl").read_text().splitlines()]


def log_probability(decoder: Decoder, tokenizer: Any, before: str, text: str) -> float:
    """log p(text | before) in float64 sums; an empty beginning is the end of a text before."""
    first = tokenizer(before).input_ids or [tokenizer.eos_token_id]
    rest = tokenizer(text).input_ids
    with torch.no_grad():
        logits = decoder(torch.tensor([first + rest]))[0, len(first) - 1 : -1].double()
    return float(logits.log_softmax(-1).gather(1, torch.tensor(rest)[:, None]).sum())


def share(decoder: Decoder, tokenizer: Any, asked: list[tuple[str, list[str], int]]) -> float:
    """How often the right choice is the most probable one."""
    right = 0
    for before, choices, gold in asked:
        found = [log_probability(decoder, tokenizer, before, each) for each in choices]
        right += found.index(max(found)) == gold
    return right / len(asked)


def by_hand(decoder: Decoder, tokenizer: Any, data: Path, task: str) -> float:
    if task == "piqa":
        asked = [
            (f"Question: {x['goal']}\nAnswer:", [f" {x['sol1']}", f" {x['sol2']}"], x["label"])
            for x in items(data, task)
        ]
    elif task == "arc_easy":
        asked = [
            (
                f"Question: {x['question']}\nAnswer:",
                [f" {each}" for each in x["choices"]["text"]],
                x["choices"]["label"].index(x["answerKey"]),
            )
            for x in items(data, task)
        ]
    elif task == "hellaswag":
        asked = [
            (
                f"Doing: {x['ctx_a']} {x['ctx_b'].capitalize()}",
                [f" {each}" for each in x["endings"]],
                int(x["label"]),
            )
            for x in items(data, task)
        ]
    elif task.startswith("blimp"):  # lm-eval puts its space before the first word too
        asked = [
            ("", [f" {x['sentence_good']}", f" {x['sentence_bad']}"], 0)
            for x in items(data, "blimp")
            if x["UID"] == "wh_island"
        ]
    else:
        parts = [[x for x in items(data, "cbt") if x["part"] == part] for part in ("CN", "NE")]
        return sum(
            share(
                decoder,
                tokenizer,
                [("", texts(x), x["options"].index(x["answer"])) for x in part],
            )
            for part in parts
        ) / len(parts)
    return share(decoder, tokenizer, asked)


@pytest.mark.parametrize("task", ["piqa", "arc_easy", "hellaswag", "blimp_wh_island", "cbt"])
def test_accuracy_is_that_of_sums_made_by_hand(
    decoder: Decoder, tokenizer: Any, data: Path, task: str
) -> None:
    score = zero_shot(decoder, tokenizer, [task], data=data, batch_size=3)[0]
    expected = by_hand(decoder, tokenizer, data, task)
    assert (score.task, score.metric, score.n) == (task, "accuracy", 14 if task == "cbt" else 7)
    assert score.value == pytest.approx(expected)
    if task != "cbt":  # the standard error of a mean of 0 and 1
        assert score.stderr == pytest.approx((expected * (1 - expected) / 6) ** 0.5)


def test_lambada_is_the_whole_last_word_greedily(
    decoder: Decoder, tokenizer: Any, data: Path, tmp_path: Path
) -> None:
    known = "Bob ran under the mat"
    model, tokens = copy.deepcopy(decoder).train(), torch.tensor([tokenizer(known).input_ids])
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(60):  # by heart, so that one word is right
        loss = F.cross_entropy(model(tokens)[0, :-1], tokens[0, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = [{"text": known}, *items(data, "lambada_openai")]
    (tmp_path / "lambada_openai.jsonl").write_text("".join(json.dumps(x) + "\n" for x in found))
    (score,) = zero_shot(model, tokenizer, ["lambada_openai"], data=tmp_path)
    hits = 0
    for x in found:
        before, _, word = x["text"].rpartition(" ")
        at, wanted = tokenizer(before).input_ids, tokenizer(f" {word}").input_ids
        logits = model(torch.tensor([at + wanted]))[0, len(at) - 1 : -1]
        hits += logits.argmax(-1).tolist() == wanted
    assert 0 < hits < len(found)
    assert (score.metric, score.value) == ("accuracy", pytest.approx(hits / len(found)))


def test_a_limit_counts_in_every_part(decoder: Decoder, tokenizer: Any, data: Path) -> None:
    (score,) = zero_shot(decoder, tokenizer, ["cbt"], limit=4, data=[data])
    assert score.n == 8


def test_the_generators_of_the_caller_stay(decoder: Decoder, tokenizer: Any, data: Path) -> None:
    torch.manual_seed(5)
    np.random.seed(5)
    expected = torch.rand(2), np.random.RandomState(5).rand()
    torch.manual_seed(5)
    zero_shot(decoder, tokenizer, ["piqa"], limit=2, data=data)
    assert torch.equal(torch.rand(2), expected[0])
    assert np.random.rand() == expected[1]


def test_a_folder_from_the_command_line(
    decoder: Decoder, tokenizer: Any, data: Path, tmp_path: Path, capsys: Any
) -> None:
    DecoderForCausalLM.from_decoder(decoder, tokenizer).save_pretrained(tmp_path / "model")
    line = [str(tmp_path / "model"), "--tasks", "piqa,arc_easy", "--data", str(data)]
    line += ["--out", str(tmp_path / "rows.jsonl"), "--encoding", "pope+yarn", "--factor", "2"]
    assert zero_shot_command.main(line) == 0
    assert "piqa\taccuracy\t" in capsys.readouterr().out
    found = rows.read_rows(tmp_path / "rows.jsonl")
    decoder.use("pope+yarn", factor=2)
    expected = zero_shot(decoder, tokenizer, ["piqa", "arc_easy"], data=data)
    decoder.use("pope")
    fields = ("task", "metric", "value", "n", "stderr")
    assert [Score(*(row[key] for key in fields)) for row in found] == expected
    assert {(row["encoding"], row["trained_as"], row["factor"]) for row in found} == {
        ("pope+yarn", "pope", 2.0)
    }


@pytest.mark.usefixtures("unchecked")
def test_what_can_not_be_scored(decoder: Decoder, tokenizer: Any, data: Path) -> None:
    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    with pytest.raises(ValueError, match="neither a bos_token nor an eos_token"):
        zero_shot(decoder, bare, ["piqa"], data=data)
    with pytest.raises(TypeError, match="model is Linear; give one of transformers"):
        zero_shot(torch.nn.Linear(2, 2), tokenizer, ["piqa"], data=data)
    with pytest.raises(ValueError, match="blimp has no row with UID anaphor_gender_agreement"):
        zero_shot(decoder, tokenizer, ["blimp"], data=data)
    with pytest.raises(ValueError, match="did you mean 'blimp_wh_island'"):
        zero_shot(decoder, tokenizer, ["blimp_wh_islands"], data=data)
