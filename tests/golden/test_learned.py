"""Learned positions: transformers' GPT2Model, called live (wte[token] + wpe[position])."""

from __future__ import annotations

import pytest
import torch
from golden.naive import EXACT, close

import whatwhere as ww

transformers = pytest.importorskip("transformers")


def test_gpt2_embeddings() -> None:
    config = transformers.GPT2Config(n_layer=1, n_head=2, n_embd=6, n_positions=11, vocab_size=13)
    model = transformers.GPT2Model(config).double().eval()
    tokens = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])
    positions = torch.tensor([[0, 1, 2, 3, 10], [0, 0, 0, 1, 2]])
    with torch.no_grad():
        out = model(tokens, position_ids=positions, output_hidden_states=True)
    enc = ww.make("learned(max_length=11)", heads=2, head_dim=3).double()
    enc.load_state_dict({"table": model.wpe.weight})
    with torch.no_grad():
        close(enc.embed(model.wte(tokens), positions), out.hidden_states[0], EXACT)


def test_one_row_per_position() -> None:
    enc = ww.make("learned", heads=2, head_dim=3, train_length=4)
    assert enc.max_length == 4
    with torch.no_grad():
        enc.table.copy_(torch.arange(24.0).reshape(4, 6))
        got = enc.embed(torch.zeros(1, 2, 6), torch.tensor([[3, 1]]))
    assert got.tolist() == [[[18, 19, 20, 21, 22, 23], [6, 7, 8, 9, 10, 11]]]
