"""A genome from a FASTA file, six nucleotides a token.

    >chr1 made up                    ACGTAC GTTGCA N ACGTAC G T
    acgtacGTTGCANACGTACGT     ->     6-mer  6-mer  N 6-mer  one by one

From left to right six nucleotides of ACGT make a token; where fewer are left before an N or before
the end, each is a token of its own, and so is N. Lower case (repeats) reads as upper case and every
other letter as N. These are the rules of the Nucleotide Transformer (Dalla-Torre et al., Nature
Methods 2024), which the PoPE paper follows: 4,096 + 5 + 6 special tokens = its 4,107.

The split is that of InstaDeepAI/human_reference_genome if the file names the chromosomes: 21 for
valid, 22 for test, 1 to 20, X and Y for training, and nothing else (no patches, no mitochondria).
A file without them is cut by position, 90/5/5, each record for itself.

Where we leave the paper: GRCh38 is 5 % N, in runs of up to millions, and a model that answers N to
N makes no loss there. With `unknown="cut"`, the default, a run of `GAP` or more is replaced by one
<cls>: the sequence is interrupted. `unknown="keep"` makes a token of each N. And the paper reads
pieces of about 6,000 nucleotides, which start the six letters anew; here it is one stream.
"""

from __future__ import annotations

import gzip
import itertools
import re
import zlib
from collections.abc import Iterator
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from whatwhere.errors import UnknownName, did_you_mean
from whatwhere.tasks.drawn import SPLITS
from whatwhere.tasks.task import Progress, Task, no_file

K = 6
GAP = 6
"""Runs of N from here on interrupt the sequence: none of them can be told from its neighbours."""

SPECIAL = ("<unk>", "<pad>", "<mask>", "<cls>", "<eos>", "<bos>")
NUCLEOTIDES = "ATCG"
"""In the order of the Nucleotide Transformer's vocabulary."""
TOKENS = (*SPECIAL, *map("".join, itertools.product(NUCLEOTIDES, repeat=K)), *NUCLEOTIDES, "N")
FIRST_SINGLE = len(SPECIAL) + 4**K
BREAK = SPECIAL.index("<cls>")

TRAINED = {*map(str, range(1, 21)), "X", "Y"}
HELD_OUT = {"21": "valid", "22": "test"}
SHARES = (90, 5, 5)

_CODES = np.full(256, 4, np.uint8)
for _place, _letter in enumerate(NUCLEOTIDES):
    _CODES[ord(_letter)] = _CODES[ord(_letter.lower())] = _place

_CHROMOSOME = re.compile(r"^(?:chr)?(\d{1,2}|[XY])$|Homo sapiens chromosome (\w+), GRCh\S+ Primary")


def load(data: Path | None = None, progress: Progress | None = None) -> Task:
    """The FASTA file `data` with the default options of `genome`. ValueError without a file."""
    if data is None:
        raise ValueError(
            "task 'genome' needs data=FILE, FASTA, also .gz: for the paper's data GRCh38.p14 "
            "(GCF_000001405.40_GRCh38.p14_genomic.fna.gz) from ncbi.nlm.nih.gov"
        )
    return genome(data, progress=progress)


def genome(
    path: str | PathLike[str], unknown: str = "cut", progress: Progress | None = None
) -> Task:
    """The FASTA file at `path` (plain or gzip) as a task; metadata["split"] says how it was split.

    `unknown` is "cut" or "keep". The streams are int64: 3.2 billion nucleotides take 4.3 GB.
    `progress(done, total)` counts bytes of the file.

    FileNotFoundError without a file; ValueError for one that is no FASTA of nucleotides, or too
    short for three splits; UnknownName (a ValueError) for another `unknown`.
    """
    path = Path(path)
    if unknown not in ("cut", "keep"):
        raise UnknownName(did_you_mean("unknown of genome", unknown, ("cut", "keep")))
    if not path.is_file():
        raise FileNotFoundError(no_file(path))
    whole: dict[str, list[NDArray[np.uint16]]] = {split: [] for split in SPLITS}
    parts: dict[str, list[NDArray[np.uint16]]] = {split: [] for split in SPLITS}
    records: dict[str, int] = {}
    for header, codes in _records(path, progress):
        chromosome = _chromosome(header)
        records[header.split()[0] if header.split() else ""] = len(codes)
        if chromosome in HELD_OUT or chromosome in TRAINED:
            whole[HELD_OUT.get(chromosome or "", "train")].append(tokenize(codes, unknown))
        held_out = len(codes) * SHARES[1] // sum(SHARES)
        cuts = np.cumsum([len(codes) - 2 * held_out, held_out])
        for split, part in zip(SPLITS, np.split(codes, cuts), strict=True):
            parts[split].append(tokenize(part, unknown))
    by_chromosome = all(whole.values())
    streams = {
        name: _stream(pieces) for name, pieces in (whole if by_chromosome else parts).items()
    }
    counts = {name: len(stream) for name, stream in streams.items()}
    if min(counts.values()) < 3:
        raise ValueError(f"data={str(path)!r} is too short: the splits have {counts} tokens")
    rule = "by chromosome" if by_chromosome else "90/5/5 by position"
    return Task(
        name="genome",
        vocab_size=len(TOKENS),
        unit="6-mer",
        describe=(
            f"{sum(records.values()):,} nucleotides of {path.name} as {sum(counts.values()):,} "
            f"tokens of six, split {rule}"
        ),
        metadata={
            "source": str(path), "split": rule, "unknown": unknown, "records": records,
            "tokens": counts, "separator": BREAK,
        },
        **streams,
    )  # fmt: skip


def tokenize(codes: NDArray[np.uint8], unknown: str = "cut") -> NDArray[np.uint16]:
    """The tokens of one sequence given as codes: 0..3 are A, T, C, G and 4 is N."""
    edges = np.flatnonzero(np.diff(codes == 4)) + 1
    pieces: list[NDArray[np.uint16]] = []
    for run in np.split(codes, edges):
        if not len(run):
            continue
        if run[0] == 4:
            cut = unknown == "cut" and len(run) >= GAP
            size, token = (1, BREAK) if cut else (len(run), FIRST_SINGLE + 4)
            pieces.append(np.full(size, token, np.uint16))
            continue
        full = len(run) // K * K
        words = np.zeros(full // K, np.uint16)
        for place in range(K):
            words = 4 * words + run[place:full:K]
        pieces.append(words + np.uint16(len(SPECIAL)))
        pieces.append((run[full:] + np.uint16(FIRST_SINGLE)).astype(np.uint16))
    return np.concatenate(pieces) if pieces else np.empty(0, np.uint16)


def text(tokens: torch.Tensor) -> str:
    """The nucleotides of `tokens`, special tokens by name."""
    return "".join(TOKENS[token] for token in tokens.tolist())


def _stream(pieces: list[NDArray[np.uint16]]) -> torch.Tensor:
    start = np.array([BREAK], np.uint16)
    whole = np.concatenate([part for piece in pieces for part in (start, piece)] + [start])
    return torch.from_numpy(whole.astype(np.int64))


def _chromosome(header: str) -> str | None:
    """Its number or letter, for names such as "chr21", "21", and NCBI's primary assembly."""
    found = _CHROMOSOME.search(header.split()[0] if header.split() else "")
    found = found or _CHROMOSOME.search(header)
    return (found[1] or found[2]) if found else None


def _records(path: Path, progress: Progress | None) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Header and codes of every record."""
    total = path.stat().st_size
    header: str | None = None
    lines: list[bytes] = []
    with path.open("rb") as raw:
        zipped = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        file = gzip.open(raw) if zipped else raw  # noqa: SIM115 - closed with raw
        try:
            for number, line in enumerate(file):
                if line.startswith(b">"):
                    if header is not None:
                        yield header, _codes(lines, header, path)
                    header, lines = line[1:].decode(errors="replace").strip(), []
                    if progress is not None:
                        progress(raw.tell(), total)
                elif header is None and line.strip():
                    raise ValueError(
                        f"data={str(path)!r} is no FASTA: line {number + 1} is {line[:20]!r}; "
                        "the first one starts with '>'"
                    )
                else:
                    lines.append(line.strip())
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"data={str(path)!r} is a broken gzip file: {error}") from None
    if header is None:
        raise ValueError(f"data={str(path)!r} is empty; a FASTA file has a line '>name' at least")
    yield header, _codes(lines, header, path)


def _codes(lines: list[bytes], header: str, path: Path) -> NDArray[np.uint8]:
    letters = np.frombuffer(b"".join(lines), np.uint8)
    strange = set(np.flatnonzero(np.bincount(letters, minlength=256))) - _IUPAC
    if strange:
        raise ValueError(
            f"data={str(path)!r}: record {header!r:.60} holds {chr(int(min(strange)))!r}, which is "
            "no nucleotide (ACGT, N, or one of IUPAC's letters for several)"
        )
    return _CODES[letters]


_IUPAC = set(b"ACGTUNRYSWKMBDHVacgtunryswkmbdhv.-")
