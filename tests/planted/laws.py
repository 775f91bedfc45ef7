"""Laws that no golden file holds, small enough to check under a fault."""

from __future__ import annotations

import torch
from golden.naive import close, wave

import whatwhere as ww
from whatwhere import positions
from whatwhere.nn import Decoder, DecoderConfig

Q, K, V = wave(6, 9, 4, 0.1), wave(3, 9, 4, 1.1), wave(3, 9, 4, 2.1)
AT = torch.arange(9)
ROPE = ww.make("rope", heads=6, head_dim=4, kv_heads=3).rule()


def decode_is_one_pass(backend: str) -> None:
    """The last four of nine queries, as a cache would ask them."""
    whole = ww.attend(Q, K, V, ROPE, backend="reference")
    last = ww.attend(Q[:, :, 5:], K, V, ROPE, q_pos=AT[5:], k_pos=AT, backend=backend)
    close(last, whole[:, :, 5:], 1e-12)


def documents_are_apart(backend: str) -> None:
    at, number = positions.packed([4, 5])
    options = {"q_pos": at, "k_pos": at, "q_documents": number, "k_documents": number}
    together = ww.attend(Q, K, V, ROPE, **options, backend=backend)
    alone = ww.attend(*(x[:, :, 4:] for x in (Q, K, V)), ROPE, backend="reference")
    close(together[:, :, 4:], alone, 1e-12)


def model(encoding: str = "rope") -> Decoder:
    torch.manual_seed(0)
    config = DecoderConfig(11, 24, 2, 6, kv_heads=3, encoding=encoding, train_length=8)
    made = Decoder(config).double().eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made


TOKENS = torch.arange(10)[None] ** 2 % 11


@torch.no_grad()
def streaming_is_one_pass() -> None:
    made, stored = model(), ww.KVCache(2, 10)
    steps = [made(part, cache=stored) for part in TOKENS.split([4, 1, 3, 2], dim=1)]
    close(torch.cat(steps, dim=1), made(TOKENS), 1e-9)


@torch.no_grad()
def padding_changes_nothing() -> None:
    made, short = model("learned(max_length=16)"), TOKENS[:, :6]
    padded = torch.cat((torch.zeros(1, 4).long(), short), dim=1)
    close(made(padded, valid=torch.arange(10)[None] >= 4)[:, 4:], made(short), 1e-9)
