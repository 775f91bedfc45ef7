"""Books: which document goes where, the tokens in between, tokenizers and files that do not fit."""

import gzip
import json
import lzma
import sys
import types
from pathlib import Path

import pytest
import tokenizers
import torch

from whatwhere import tasks
from whatwhere.tasks import books

END = 50256


class Words:
    """A tokenizer of one token per word, "w7" is 7: enough for what is not BPE."""

    def encode_batch(self, texts):
        return [types.SimpleNamespace(ids=[int(w[1:]) for w in text.split()]) for text in texts]


@pytest.fixture
def words(monkeypatch):
    monkeypatch.setattr(books, "gpt2", lambda source=None: Words())


def document(start: int, count: int) -> str:
    return " ".join(f"w{number}" for number in range(start, start + count))


def lines(*texts: str) -> str:
    return "\n".join(json.dumps({"text": text, "title": "x"}) for text in texts) + "\n"


def pieces(stream: torch.Tensor) -> list[list[int]]:
    tokens = stream.tolist()
    assert tokens[0] == tokens[-1] == END
    found, piece = [], []
    for token in tokens[1:]:
        if token == END:
            found.append(piece)
            piece = []
        else:
            piece.append(token)
    return found


@pytest.mark.usefixtures("words")
def test_text_that_is_only_evaluated_on(tmp_path):
    path = tmp_path / "books_test.jsonl"
    marked = "\ufeff" + document(10, 6)  # as Windows' editors begin a file
    path.write_text(lines(document(0, 5), marked), encoding="utf-8")
    task = tasks.load("books", path)
    assert pieces(task.test) == [list(range(5)), list(range(10, 16))]
    assert len(task.train) == len(task.valid) == 0
    assert task.metadata["documents"] == {"train": 0, "valid": 0, "test": 2}


@pytest.mark.usefixtures("words")
def test_files_named_by_a_split_go_there(tmp_path):
    (tmp_path / "books_train_a.jsonl").write_text(lines(document(0, 5), document(10, 6)))
    (tmp_path / "books-valid.jsonl.gz").write_bytes(gzip.compress(lines(document(20, 3)).encode()))
    (tmp_path / "test.jsonl.xz").write_bytes(lzma.compress(lines(document(30, 4)).encode()))
    (tmp_path / "notes.md").write_text("no text of ours")
    calls = []
    task = tasks.load("books", tmp_path, lambda *call: calls.append(call))
    assert pieces(task.train) == [list(range(5)), list(range(10, 16))]
    assert pieces(task.valid) == [[20, 21, 22]]
    assert pieces(task.test) == [[30, 31, 32, 33]]
    assert calls == [(1, 3), (2, 3), (3, 3)]
    assert task.metadata["documents"] == {"train": 2, "valid": 1, "test": 1}
    assert (task.vocab_size, task.unit, task.metadata["separator"]) == (50257, "token", END)


@pytest.mark.usefixtures("words")
def test_a_split_that_no_file_is_named_by_comes_from_the_training_documents(tmp_path):
    (tmp_path / "train.jsonl").write_text(lines(*(document(10 * i, 10) for i in range(30))))
    (tmp_path / "test.jsonl").write_text(lines(document(900, 9), document(950, 9)))
    task = books.books(tmp_path)
    assert task.metadata["documents"] == {"train": 28, "valid": 2, "test": 2}
    starts = sorted(piece[0] for s in (task.train, task.valid) for piece in pieces(s))
    assert starts == list(range(0, 300, 10))
    assert [piece[0] for piece in pieces(task.test)] == [900, 950]


@pytest.mark.usefixtures("words")
def test_documents_are_split_by_their_text_not_their_order(tmp_path):
    texts = [document(10 * i, 10) for i in range(40)]
    (tmp_path / "one.jsonl").write_text(lines(*texts))
    (tmp_path / "two.jsonl").write_text(lines(*reversed(texts)))
    one, two = (books.books(tmp_path / f"{name}.jsonl") for name in ("one", "two"))
    assert one.metadata["documents"] == {"train": 36, "valid": 2, "test": 2}
    for first, second in zip(one.splits().values(), two.splits().values(), strict=True):
        assert sorted(pieces(first)) == sorted(pieces(second))


@pytest.mark.usefixtures("words")
def test_one_document_is_split_by_position(tmp_path):
    (tmp_path / "own.txt").write_text(document(0, 100))
    task = books.books(tmp_path / "own.txt")
    assert [pieces(s) for s in task.splits().values()] == [
        [list(range(90))], [list(range(90, 95))], [list(range(95, 100))],
    ]  # fmt: skip


@pytest.mark.usefixtures("words")
def test_the_hub_is_streamed_and_cut(monkeypatch):
    asked = []

    def load_dataset(*args, **options):
        asked.append((args, options))
        return ({"text": document(10 * i, 10), "id": i} for i in range(5000))

    module = types.ModuleType("datasets")
    module.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", module)
    task = books.from_hub("some/text", documents=70)
    assert asked == [(("some/text",), {"split": "train", "streaming": True})]
    assert sum(task.metadata["documents"].values()) == 70
    assert task.metadata["source"] == "hub:some/text"
    assert tasks.load("books", "hub:some/other").metadata["source"] == "hub:some/other"
    assert asked[1][0] == ("some/other",)
    module.load_dataset = lambda *args, **options: [{"content": "w1"}]
    with pytest.raises(ValueError, match="no column 'text'; it has content"):
        books.from_hub("some/text")

    def unreachable(*args, **options):
        raise ConnectionError("Couldn't reach 'some/text' on the Hub\nmore of it")

    module.load_dataset = unreachable
    with pytest.raises(OSError, match=r"hub:some/text .* on the Hub\); give a file or folder"):
        books.from_hub("some/text")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'whatwhere\[study\]'"):
        books.from_hub("some/text")


@pytest.mark.usefixtures("words")
def test_what_is_no_text_is_refused(tmp_path):
    with pytest.raises(ValueError, match="needs data=FILE, a FOLDER, or hub:NAME"):
        tasks.load("books")
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        tasks.load("books", tmp_path / "absent.txt")
    with pytest.raises(ValueError, match=r"no \.txt or \.jsonl file"):
        tasks.load("books", tmp_path)
    for content, message in [
        ("{", r"a\.jsonl:1 is not JSON"),
        ('{"text": "w1"}\n{"title": 3}', r'a\.jsonl:2 is no JSON object with a "text"'),
        (lines(document(0, 9), document(20, 9)), "need three groups at least; there are 2"),
        (lines(document(0, 9)), "has 9 tokens, too few"),
        ("\n", "there are 0"),
    ]:
        (tmp_path / "a.jsonl").write_text(content)
        with pytest.raises(ValueError, match=message):
            tasks.load("books", tmp_path / "a.jsonl")
    (tmp_path / "b.txt.gz").write_bytes(b"not gzip")
    with pytest.raises(ValueError, match=r"b\.txt\.gz' cannot be read"):
        tasks.load("books", tmp_path / "b.txt.gz")
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"")[:10] + b"\xff" * 50)
    with pytest.raises(ValueError, match=r"b\.txt\.gz' cannot be read"):
        tasks.load("books", tmp_path / "b.txt.gz")
    (tmp_path / "c.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ValueError, match=r"c\.txt' cannot be read"):
        tasks.load("books", tmp_path / "c.txt")


def test_tokenizers_that_are_not_gpt2s_are_refused(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"no tokenizer\.json, or encoder\.json and vocab"):
        books.gpt2(tmp_path)
    small = tokenizers.ByteLevelBPETokenizer()
    small.train_from_iterator(["some text"], vocab_size=300)
    small.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match=r"GPT-2's has 50257"):
        books.gpt2(tmp_path)
    monkeypatch.setenv("WHATWHERE_GPT2", str(tmp_path / "absent"))
    with pytest.raises(FileNotFoundError, match="absent"):
        books.gpt2()


def test_a_tokenizer_with_gpt2s_vocabulary_is_read_from_either_form(tmp_path):
    """Vocabulary and merges of the right size, made here: bytes, one merge, fillers, the end."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    words = [*alphabet, "th", *(f"filler{i}" for i in range(50256 - 257)), books.END]
    (tmp_path / "encoder.json").write_text(json.dumps({w: i for i, w in enumerate(words)}))
    (tmp_path / "vocab.bpe").write_text("#version: 0.2\nt h\n")
    tokenizer = books.gpt2(tmp_path)
    assert tokenizer.encode("that").tokens == ["th", "a", "t"]
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    again = books.gpt2(tmp_path / "tokenizer.json")
    for text in ("that", f"th{books.END}t"):
        assert again.encode(text).ids == tokenizer.encode(text).ids
    assert END in tokenizer.encode(f"th{books.END}t").ids
    (tmp_path / "own.txt").write_text("that " * 40)
    task = books.books(tmp_path / "own.txt", tokenizer=Path(tmp_path))
    assert task.train[0] == END
    assert task.train[1] == 256
