"""The demonstration's base model: text, needles, training, and what transformers reads of it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("tokenizers")

from tokenizers import Tokenizer

from whatwhere.extend.base import books
from whatwhere.extend.base.__main__ import main
from whatwhere.extend.base.llama import Llama, Sizes, export
from whatwhere.extend.base.needles import Batches, Needles
from whatwhere.extend.base.plan import Plan, learning_rate
from whatwhere.extend.base.train import Training
from whatwhere.study.rows import read_rows

WORDS = ["the", "sea", "ran", "high", "and", "a", "ship", "of", "47", "guns", "lay", "near", "by"]
WORDS += ["The pass key is 1. Remember it. 2 is the pass key.", "What is the pass key?"]
SIZES = Sizes(400, 48, 72, 2, 3, 16, max_position_embeddings=112)


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    random = np.random.default_rng(3)
    out = tmp_path_factory.mktemp("base")
    with (out / "books.jsonl").open("w") as file:
        for i in range(7):
            text = " ".join(random.choice(WORDS, 3000 + i)) + ".\n"
            file.write(json.dumps({"text": text, "title": f"Book {i}"}) + "\n")
    books.prepare([out / "books.jsonl"], out / "tokens", vocab_size=400, held_out=2)
    return out / "tokens"


def needles(directory: Path) -> tuple[Needles, Tokenizer]:
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    return Needles(lambda text: tokenizer.encode(text).ids, tokenizer.get_vocab_size()), tokenizer


def batches(directory: Path, size: int = 5, seed: int = 0) -> Batches:
    return Batches(books.load(directory, "train"), needles(directory)[0], size, 112, seed)


def test_books_come_back_from_their_tokens(directory: Path) -> None:
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    about = json.loads((directory / "books.json").read_text())
    texts = {b["title"]: b["text"] for b in read_rows(directory.parent / "books.jsonl")}
    for part in ("train", "valid"):
        titles = [book["title"] for book in about[part]["books"]]
        decoded = tokenizer.decode(books.load(directory, part).tolist(), skip_special_tokens=False)
        assert decoded == "".join(texts[title] + books.END for title in titles)
    held, used = ({b["title"] for b in about[p]["books"]} for p in ("valid", "train"))
    assert len(held) == 2
    assert not held & used


def test_the_answer_of_a_pass_key_is_the_needle_s(directory: Path) -> None:
    made, tokenizer = needles(directory)
    for seed in range(20):
        row = np.full(112, 7, np.uint16)
        where = made.passkey(row, np.random.default_rng(seed), at_end=seed % 2 == 0)
        key = tokenizer.decode(row[where].tolist())
        text = tokenizer.decode(row.tolist())
        assert key.isdigit()
        assert f"The pass key is {key}. Remember it. {key} is the pass key.\n" in text
        assert f"What is the pass key? The pass key is {key}." in text
        assert text.index("Remember") < text.index("What")


def test_a_copied_passage_stood_there_before(directory: Path) -> None:
    made, _ = needles(directory)
    for seed in range(20):
        row = np.random.default_rng(seed).integers(0, 400, 112).astype(np.uint16)
        where = made.copy(row, np.random.default_rng(seed))
        passage = row[where.start - 1 : where.stop].tobytes()
        assert row[: where.start - 1].tobytes().find(passage) >= 0


def test_a_batch_depends_on_nothing_but_seed_and_step(directory: Path) -> None:
    made = batches(directory)
    in_order = [made(step) for step in range(60)]
    for step in (59, 3, 41):
        np.testing.assert_array_equal(batches(directory)(step), in_order[step])
    assert not np.array_equal(batches(directory, seed=1)(3), in_order[3])


def test_an_epoch_predicts_every_window_once(directory: Path) -> None:
    made = batches(directory)
    starts = np.asarray([made._start(i) for i in range(2 * made.windows)]).reshape(2, -1)
    for epoch in starts:
        assert len(set((np.sort(epoch) - epoch.min()).tolist())) == made.windows
        assert set(((epoch - epoch.min()) % 112).tolist()) == {0}
    assert not np.array_equal(*starts)


def test_transformers_computes_the_same(directory: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = Llama(SIZES, seed=1)
    with torch.no_grad():
        for p in model.parameters():  # sharpened, and no gain is 1
            p.copy_((p * 8 if p.dim() > 1 else p + 0.3 * torch.randn_like(p)).half().float())
    export(model, directory / "tokenizer.json", tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    tokens = torch.randint(0, 400, (2, 63), generator=torch.Generator().manual_seed(0))
    ours = model(tokens)
    assert (ours - theirs(tokens).logits).abs().max() < 1e-5 * ours.abs().max()
    text = "a ship of 47 guns"
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert loaded(text).input_ids == needles(directory)[1].encode(text).ids


def trained(directory: Path, out: Path, stops: list[int]) -> bytes:
    plan = Plan(steps=30, sizes=SIZES, batch_size=5, valid_windows=3, precision="float32")
    for stop in [*stops, 1000]:
        taken = iter(range(1000))
        training = Training(
            plan, batches(directory), books.load(directory, "valid"), out,
            tokenizer=directory / "tokenizer.json",
        )  # fmt: skip
        if training.run(every=1e9, stop=lambda taken=taken, stop=stop: next(taken) == stop):
            training.finish()
    return (out / "model" / "model.safetensors").read_bytes()


def test_a_training_that_was_stopped_ends_with_the_same_bits(
    directory: Path, tmp_path: Path
) -> None:
    whole = trained(directory, tmp_path / "a", [])
    assert trained(directory, tmp_path / "b", [3, 8, 0]) == whole
    rows = [
        [(r["metric"], r["step"], r["value"], r["precision"]) for r in read_rows(file)]
        for file in (tmp_path / "a" / "rows.jsonl", tmp_path / "b" / "rows.jsonl")
    ]
    assert rows[0] == rows[1]
    assert {metric for metric, *_ in rows[0]} == {"train_nll", "valid_nll", "passkey"}


def test_measuring_the_speed_leaves_no_trace(directory: Path, tmp_path: Path) -> None:
    plan = Plan(steps=30, sizes=SIZES, batch_size=5, valid_windows=3, precision="float32")
    valid = books.load(directory, "valid")
    fresh, timed = (Training(plan, batches(directory), valid, tmp_path / n) for n in "ab")
    assert timed.steps_in(1.0, warm=1, timed=2) >= 1
    for training in (fresh, timed):
        training.run(every=1e9)
    for a, b in zip(fresh.model.parameters(), timed.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_rate_rises_then_falls_to_zero() -> None:
    plan = Plan(steps=1000, warmup_steps=100)
    rates = [learning_rate(step, plan) for step in range(1000)]
    assert rates[0] == pytest.approx(plan.lr / 100)
    assert max(rates) == rates[100] == plan.lr
    assert rates[-1] < 1e-5 * plan.lr


def test_bad_input_is_named(directory: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no-such\.jsonl"):
        main(["--data", "no-such.jsonl", "--out", str(tmp_path / "x")])
    (tmp_path / "text.jsonl").write_text("once upon a time\n")
    with pytest.raises(ValueError, match=r'text\.jsonl:1 is no JSON object with a "text"'):
        main(["--data", str(tmp_path / "text.jsonl"), "--out", str(tmp_path / "x")])
    (tmp_path / "one.jsonl").write_text('{"text": "a"}\n')
    with pytest.raises(ValueError, match="8 are held out"):
        main(["--data", str(tmp_path / "one.jsonl"), "--out", str(tmp_path / "x")])
    with pytest.raises(ValueError, match="give at least 225"):
        Batches(np.zeros(100, np.uint16), needles(directory)[0], 2, 112, 0)
    with pytest.raises(ValueError, match="precision"):
        Plan(steps=3, precision="fp8")
