"""FASTA to 6-mers: the tokens by hand, the splits, what is no FASTA."""

import gzip

import numpy as np
import pytest
import torch

from whatwhere import tasks
from whatwhere.errors import UnknownName
from whatwhere.tasks import genome
from whatwhere.tasks.genome import BREAK, FIRST_SINGLE, TOKENS


def tokens(text: str, unknown: str = "keep") -> list[str]:
    codes = np.array(["ATCGN".index(letter) for letter in text], np.uint8)
    return [TOKENS[token] for token in genome.tokenize(codes, unknown).tolist()]


def fasta(tmp_path, content: str, name="some.fa"):
    path = tmp_path / name
    path.write_text(content)
    return path


def body(length: int, seed: int = 0) -> str:
    return "".join(np.random.default_rng(seed).choice(list("ACGT"), length))


def test_the_drawn_example():
    expected = ["ACGTAC", "GTTGCA", "N", "ACGTAC", "G", "T"]
    assert tokens("ACGTACGTTGCANACGTACGT") == expected


def test_the_vocabulary_is_that_of_the_nucleotide_transformer():
    assert len(TOKENS) == len(set(TOKENS)) == 4107
    # The first words of its vocabulary file: special tokens, AAAAAA, AAAAAT, AAAAAC, AAAAAG.
    assert TOKENS[6:11] == ("AAAAAA", "AAAAAT", "AAAAAC", "AAAAAG", "AAAATA")
    assert TOKENS[-5:] == ("A", "T", "C", "G", "N")


@pytest.mark.parametrize("seed", range(5))
def test_a_plain_loop_gives_the_same_tokens(seed):
    text = "".join(np.random.default_rng(seed).choice(list("ACGTN"), 300, p=[0.23] * 4 + [0.08]))
    expected, rest = [], text
    while rest:
        size = 6 if len(rest) >= 6 and "N" not in rest[:6] else 1
        expected.append(rest[:size])
        rest = rest[size:]
    assert tokens(text) == expected
    assert "".join(tokens(text)) == text


def test_long_runs_of_n_interrupt():
    assert tokens("ACGTAC" + "N" * 6 + "GG", "cut") == ["ACGTAC", "<cls>", "G", "G"]
    assert tokens("ACGTAC" + "N" * 5 + "GG", "cut") == ["ACGTAC", *"NNNNN", "G", "G"]
    assert tokens("ACGTAC" + "N" * 900, "keep") == ["ACGTAC", *"N" * 900]


def test_a_file_without_chromosomes_is_cut_by_position(tmp_path):
    first, second = body(600), body(1200, 1)
    lines = "\n".join(first[i : i + 60].lower() for i in range(0, 600, 60))
    path = fasta(tmp_path, f">one some words\n{lines}\n\n>two\n{second.replace('A', 'a')}\n")
    task = tasks.load("genome", path)
    separator = TOKENS[BREAK]
    assert (
        genome.text(task.train) == f"{separator}{first[:540]}{separator}{second[:1080]}{separator}"
    )
    assert genome.text(task.valid) == (
        f"{separator}{first[540:570]}{separator}{second[1080:1140]}{separator}"
    )
    assert (
        genome.text(task.test) == f"{separator}{first[570:]}{separator}{second[1140:]}{separator}"
    )
    assert (task.vocab_size, task.unit) == (4107, "6-mer")
    assert task.metadata["records"] == {"one": 600, "two": 1200}
    assert task.metadata["split"] == "90/5/5 by position"


@pytest.mark.parametrize(
    "header",
    [
        "chr{}",
        "{} dna:chromosome",
        "NC_000021.9 Homo sapiens chromosome {}, GRCh38.p14 Primary Assembly",
    ],
)
def test_chromosomes_21_and_22_are_held_out(tmp_path, header):
    bodies = {name: body(60, seed) for seed, name in enumerate(["1", "X", "21", "22", "MT"])}
    content = "".join(f">{header.format(name)}\n{text}\n" for name, text in bodies.items())
    task = genome.genome(fasta(tmp_path, content + ">chr1_alt patch\nAAAAAA\n"))
    assert task.metadata["split"] == "by chromosome"
    s = TOKENS[BREAK]
    assert genome.text(task.train) == f"{s}{bodies['1']}{s}{bodies['X']}{s}"
    assert genome.text(task.valid) == f"{s}{bodies['21']}{s}"
    assert genome.text(task.test) == f"{s}{bodies['22']}{s}"


def test_gzip_by_content_and_other_letters_as_n(tmp_path):
    path = tmp_path / "named.fa"
    path.write_bytes(gzip.compress(b">a\nACGTACRYacgtac" + b"ACGTAC" * 60))
    calls = []
    task = tasks.load("genome", path, lambda *call: calls.append(call))
    assert genome.text(task.train).startswith("<cls>ACGTACNNACGTAC")
    assert int((task.train == FIRST_SINGLE + 4).sum()) == 2
    assert calls
    assert task.train.dtype == torch.int64


def test_what_is_no_fasta_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        tasks.load("genome", tmp_path / "absent.fa")
    with pytest.raises(ValueError, match=r"needs data=FILE.*GRCh38"):
        tasks.load("genome")
    for content, message in [
        ("", "is empty"),
        ("ACGT\n", "is no FASTA: line 1"),
        (">a\nACGT ACG!\n", "holds ' '"),
        (">a\nMKLVQ\n", "holds 'L'"),
        (">a\nACGTACGT\n", "too short"),
    ]:
        with pytest.raises(ValueError, match=message):
            genome.genome(fasta(tmp_path, content))
    broken = tmp_path / "broken.fa.gz"
    broken.write_bytes(gzip.compress(b">a\n" + body(5000).encode())[:-400])
    with pytest.raises(ValueError, match="broken gzip"):
        genome.genome(broken)
    broken.write_bytes(gzip.compress(b"")[:10] + b"\xff" * 50)  # zlib has an error of its own
    with pytest.raises(ValueError, match="broken gzip"):
        genome.genome(broken)
    with pytest.raises(FileNotFoundError, match="that is a folder; give the file"):
        genome.genome(tmp_path)
    with pytest.raises(UnknownName, match="did you mean 'keep'"):
        genome.genome(fasta(tmp_path, ">a\nACGT\n"), unknown="keeps")
