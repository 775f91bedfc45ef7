"""What a released model goes through with `use` in force: caches, training, saving, copying."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from hf.models import LENGTH, WINDOW, assert_close, logits, tiny_model, tokens
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, DynamicCache, StaticCache

from whatwhere import hf

TEXTS = [
    "rope",
    "rope+yarn(factor=4)",
    "rope+rerope(window=8)",
    "rope+self_extend(group=2,window=8)",
]
TEXTS += ["rope+dual_chunk(chunk=24)", "rope+logn", "pope", "alibi", "nope", "t5", "kerple"]


def cache_of(model: Any, name: str) -> Any:
    if name == "static":
        return StaticCache(config=model.config, max_cache_len=64)
    return DynamicCache(config=model.config)


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_are_one_pass(text: str) -> None:
    """Prefill in pieces, then token by token, left-padded rows, every kind of encoding."""
    model, ids = tiny_model("llama"), tokens(3, 31)
    mask = torch.ones_like(ids)
    mask[0, :6] = 0
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    with hf.use(model, text):
        whole = logits(model, ids, attention_mask=mask, position_ids=positions)
        for name in ("dynamic", "static"):
            cache, start, parts = cache_of(model, name), 0, []
            for size in (11, 1, 7, 1, 1, 10):
                end = start + size
                given = {"attention_mask": mask[:, :end], "position_ids": positions[:, start:end]}
                parts.append(logits(model, ids[:, start:end], past_key_values=cache, **given))
                start = end
            real = mask.bool()
            assert_close(torch.cat(parts, dim=1)[real], whole[real], 2e-5)


@pytest.mark.parametrize("kind", ["mistral", "gemma3_text", "gemma2"])
@pytest.mark.parametrize("name", ["dynamic", "static"])
def test_caches_that_forget(kind: str, name: str) -> None:
    """Layers with a window keep its last keys only, whose positions must be known still."""
    model, ids = tiny_model(kind), tokens(2, 5 * WINDOW)
    positions = torch.arange(5 * WINDOW)[None] + 3  # not the tokens' indices
    with hf.use(model):
        whole = logits(model, ids)
        cache, start, parts = cache_of(model, name), 0, []
        for size in (WINDOW - 2, 1, 1, 1, 1, WINDOW, 1, 2 * WINDOW, 1, 1):
            end = start + size
            given = {"position_ids": positions[:, start:end], "past_key_values": cache}
            parts.append(logits(model, ids[:, start:end], **given))
            start = end
    assert_close(torch.cat(parts, dim=1), whole[:, :start], 2e-5)


def test_a_cache_is_cropped_and_copied() -> None:
    """Rejected drafts (assisted decoding) and shared prefixes (a copied cache)."""
    model, ids = tiny_model("llama"), tokens(2, 20)
    with hf.use(model):
        whole = logits(model, ids)
        cache = DynamicCache(config=model.config)
        logits(model, ids[:, :12], past_key_values=cache)
        prefix = copy.deepcopy(cache)
        logits(model, tokens(2, 4, seed=7), past_key_values=cache)
        cache.crop(-4)
        for each in (cache, prefix):
            for start, end in ((12, 18), (18, 20)):
                found = logits(model, ids[:, start:end], past_key_values=each)
                assert_close(found, whole[:, start:end])


def test_beams() -> None:
    """Beam search reorders the rows of a cache; rows of one prompt share their positions."""
    model, ids = tiny_model("llama"), tokens(2, 11)
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    settings = {"attention_mask": mask, "max_new_tokens": 9, "num_beams": 3, "do_sample": False}
    expected = model.generate(ids, **settings)
    with hf.use(model):
        assert torch.equal(model.generate(ids, **settings), expected)


@pytest.mark.parametrize("kind", ["llama", "stablelm", "gemma3_text"])
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing(kind: str, reentrant: bool) -> None:
    """Two passes of different positions before one backward: each recomputes with its own."""
    expected = gradients(tiny_model(kind), None)
    found = gradients(tiny_model(kind), {"use_reentrant": reentrant})
    for name, gradient in expected.items():
        assert_close(found[name], gradient)


def gradients(model: Any, checkpointing: dict[str, Any] | None) -> dict[str, torch.Tensor]:
    model.train()
    if checkpointing is not None:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=checkpointing)
        model.enable_input_require_grads()
    with hf.use(model, "rope+yarn(factor=4)"):
        ids, restarted = tokens(2, 24), torch.arange(24)[None] % 10
        first = model(ids, labels=ids, use_cache=False).loss
        second = model(ids, labels=ids, position_ids=restarted, use_cache=False).loss
        (first + 2 * second).backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def test_gradients_are_those_of_the_stock_model() -> None:
    expected, found = tiny_model("llama"), tiny_model("llama")
    ids = tokens(2, 24)
    expected(ids, labels=ids).loss.backward()
    with hf.use(found):
        found(ids, labels=ids).loss.backward()
    for (name, a), (_, b) in zip(
        expected.named_parameters(), found.named_parameters(), strict=True
    ):
        assert a.grad is not None, name
        assert b.grad is not None, name
        assert_close(b.grad, a.grad)


@pytest.mark.parametrize("order", ["use first", "peft first"])
def test_lora_trains_and_saves(order: str, tmp_path: Path) -> None:
    model, ids = tiny_model("llama"), tokens(2, 40)
    lora = LoraConfig(r=4, target_modules=["q_proj", "k_proj"], task_type="CAUSAL_LM")
    text = "rope+yarn(factor=4)"
    if order == "use first":
        handle = hf.use(model, text)
        tuned = get_peft_model(model, lora)
    else:
        tuned = get_peft_model(model, lora)
        handle = hf.use(tuned, text)
    optimizer = torch.optim.AdamW([p for p in tuned.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(6):
        loss = tuned(ids, labels=ids).loss
        loss.backward()
        for name, parameter in tuned.named_parameters():
            assert parameter.requires_grad == ("lora" in name)
            assert not parameter.requires_grad or parameter.grad is not None, name
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.05
    merged = tuned.eval().merge_and_unload()
    expected = logits(merged, ids)
    merged.save_pretrained(tmp_path)
    hf.undo(handle)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert plain.config.rope_parameters["rope_type"] == "yarn"
    assert_close(logits(plain, ids), expected)


def test_what_is_saved_runs_in_plain_transformers(tmp_path: Path) -> None:
    model, ids = tiny_model("gemma3_text"), tokens(2, LENGTH + 20)
    before = settings(model.config)
    with hf.use(model, "rope+yarn(factor=4,beta_fast=8)"):
        expected = logits(model, ids)
        model.save_pretrained(tmp_path)
    assert settings(model.config) == before
    plain = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    assert plain.config.max_position_embeddings == 4 * LENGTH
    assert plain.config._attn_implementation == "eager"
    assert_close(logits(plain, ids), expected)


def settings(config: Any) -> dict[str, Any]:
    """All but what saving itself fills in."""
    found = copy.deepcopy(config.to_dict())
    return {key: x for key, x in found.items() if key not in ("architectures", "dtype")}


def test_what_no_config_can_say_is_told_and_kept(tmp_path: Path) -> None:
    model, ids = tiny_model("llama"), tokens(2, LENGTH + 20)
    with hf.use(model, "rope+rerope(window=8)+logn"):
        expected = logits(model, ids)
        with pytest.warns(UserWarning, match="has no form in rope_parameters.*former rotation"):
            model.save_pretrained(tmp_path)
    assert not hasattr(model.config, "whatwhere")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    with hf.use(loaded) as handle:
        assert "rerope(window=8)" in handle.expressions["full_attention"]
        assert_close(logits(loaded, ids), expected)


def test_a_copy_of_the_model_stands_alone() -> None:
    model, ids = tiny_model("llama"), tokens()
    with hf.use(model, "pope"):
        twin = copy.deepcopy(model)
        expected = logits(model, ids)
        for encoding in model.model.rotary_emb.encodings:
            for parameter in encoding.parameters():
                parameter.data.fill_(-1.0)
        assert not torch.equal(logits(model, ids), expected)
    assert_close(logits(twin, ids), expected, 0.0)


def test_encodings_with_parameters_train_and_move() -> None:
    """Parameters of an encoding stand in the model while it is in force, and get gradients."""
    model, ids = tiny_model("llama"), tokens()
    stock = set(model.state_dict())
    for text in ("kerple", "t5", "pope(delta_init=uniform)"):
        with hf.use(model, text):
            own = [n for n, _ in model.named_parameters() if "rotary_emb" in n]
            assert own, text
            model(ids, labels=ids).loss.backward()
            parameters = dict(model.named_parameters())
            assert all(parameters[name].grad is not None for name in own), text
        assert set(model.state_dict()) == stock


def test_layers_without_positions_keep_none() -> None:
    """SmolLM3's third layer: an encoding is for the layers that rotate."""
    model = tiny_model("smollm3")
    with hf.use(model, "alibi"):
        rotary = model.model.rotary_emb
        names = [rotary.encodings[rotary.number_of(layer)].name for layer in range(4)]
    assert names == ["alibi", "alibi", "nope", "alibi"]


def test_half_precision_and_autocast() -> None:
    model, ids = tiny_model("llama"), tokens()
    expected = logits(model, ids)
    with hf.use(model), torch.autocast(ids.device.type, torch.bfloat16):
        found = logits(model, ids)
    assert (found.float() - expected).abs().max() < 0.1 * expected.abs().max()
    model = model.bfloat16()
    stock = logits(model, ids)
    with hf.use(model):
        found = logits(model, ids)
    # Ours turns in float32, the stock model in bf16: nearer to float32 than it.
    ours = (found.float() - expected).abs().mean()
    assert ours <= 1.1 * (stock.float() - expected).abs().mean()


@pytest.mark.parametrize("backend", ["reference", "sdpa"])
def test_the_backend_can_be_named(backend: str) -> None:
    model, ids = tiny_model("llama"), tokens()
    expected = logits(model, ids)
    with hf.use(model, backend=backend):
        assert_close(logits(model, ids), expected)
