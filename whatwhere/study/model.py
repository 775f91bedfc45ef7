"""The model of a comparison: the same weights for every encoding at a seed."""

from __future__ import annotations

import hashlib

import torch

from whatwhere.nn import Decoder, DecoderConfig
from whatwhere.study.config import Config

__all__ = ["build_model", "decoder_config", "derived_seed"]


def decoder_config(config: Config, encoding: str, vocab_size: int) -> DecoderConfig:
    """The decoder's part of a configuration. Raises ValueError for sizes that do not fit."""
    return DecoderConfig(
        vocab_size=vocab_size,
        width=config.width,
        layers=config.layers,
        heads=config.heads,
        kv_heads=config.kv_heads,
        head_dim=config.head_dim,
        hidden=config.hidden,
        qk_norm=config.qk_norm,
        activation=config.activation,
        tie_embeddings=config.tie_embeddings,
        dropout=config.dropout,
        encoding=encoding,
        train_length=config.train_length,
    )


def build_model(config: Config, encoding: str, vocab_size: int, seed: int) -> Decoder:
    """The decoder of a configuration on the CPU, its weights a function of the seed.

    All weights but the encoding's own are the same for every encoding. Draws from torch's global
    generator, and leaves it where the seed put it.
    """
    model = Decoder(decoder_config(config, encoding, vocab_size))
    torch.manual_seed(derived_seed(seed, "weights"))
    model.reset_parameters()
    return model


def derived_seed(seed: int, use: str) -> int:
    """A seed of its own for each use, of 63 bits."""
    digest = hashlib.sha256(f"{use}:{seed}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
