"""`use` and `undo`: another encoding for a released model, and the way back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from whatwhere.attention import BACKENDS
from whatwhere.errors import UnknownName, did_you_mean, kind_of
from whatwhere.hf import attention
from whatwhere.hf.architectures import Architecture, architecture_of
from whatwhere.hf.context import context_of, remember, tokens_of
from whatwhere.hf.resolve import Choice, Wanted, choose, encodings_of
from whatwhere.hf.saving import STORED, change, tell
from whatwhere.hf.sizes import layer_types, shape_of

__all__ = ["Handle", "undo", "use"]


class Handle:
    """What `use` changed, so that `undo` can take it back; also a context manager.

    `expressions`: the text of every layer type's encoding.
    """

    def __init__(self, model: nn.Module, decoder: Any, choices: dict[str, Choice]) -> None:
        self.model, self.decoder = model, decoder
        self.expressions = {
            name: str(choice.expression or choice.encoding) for name, choice in choices.items()
        }
        self.undone = False
        self._back: list[Callable[[], Any]] = []

    def later(self, action: Callable[[], Any]) -> None:
        """An action for `undo`, which runs them last to first."""
        self._back.append(action)

    def undo(self) -> None:
        """As `whatwhere.hf.undo`."""
        while self._back:
            self._back.pop()()
        self.undone = True

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, *error: object) -> None:
        if not self.undone:
            self.undo()

    def __repr__(self) -> str:
        state = "undone" if self.undone else "in force"
        return f"<hf.use of {self.expressions} on {type(self.model).__name__}, {state}>"


def use(
    model: nn.Module,
    encoding: Wanted = None,
    *,
    train_length: int | None = None,
    factor: float | None = None,
    backend: str = "auto",
) -> Handle:
    """Let a released transformers model run with another encoding, without patching a `forward`.

    Args:
        model: a transformers model of a covered type (`hf.COVERED`), or a PEFT model around one.
        encoding: an expression, "rope+yarn(factor=4)", where "rope" is the model's own rotation
            with all that its config says; an Encoding; a dict of them by layer type; None for the
            model's own (or what a config saved under `use` says). A text goes to the layers
            without a window where the config keeps rope_parameters per layer type.
        train_length, factor: defaults of options with these names; train_length comes from the
            config otherwise.
        backend: as in `whatwhere.attend`.

    Keys are cached as they come from their projections, and turned when they are read: decoding
    equals one pass (where frequencies follow the length, in the first layer only: what deeper
    layers cached was made at other lengths). Returns a handle for `undo`, or for `with`.
    Raises UnknownName, TypeError or ValueError before anything is changed.
    """
    inner = _transformers_model(model)
    config = inner.config.get_text_config()
    line = architecture_of(config)
    decoder = _decoder(inner, line)
    if backend != "auto" and backend not in [each.name for each in BACKENDS]:
        raise UnknownName(did_you_mean("backend", backend, ["auto", *(b.name for b in BACKENDS)]))
    if isinstance(decoder.rotary_emb, attention.Unturned):
        raise ValueError("this model runs with an encoding of hf.use already: call hf.undo first")
    if encoding is None:
        encoding = getattr(config, STORED, None)
    choices = choose(config, encoding, train_length, factor)
    modules = [getattr(layer, line.attention) for layer in decoder.layers]
    rotates = [not line.rotates_if or bool(getattr(each, line.rotates_if)) for each in modules]
    encodings, numbers = encodings_of(choices, layer_types(config), rotates, shape_of(config))
    width = _rotary_width(decoder.rotary_emb, config)
    place = next(decoder.parameters())
    unturned = attention.Unturned(encodings, numbers, width, config).to(place.device)
    handle = Handle(model, decoder, choices)
    try:
        _replace(handle, decoder, unturned, config)
        learned = any(True for _ in unturned.parameters())
        tell(handle, inner, config, encoding, choices, learned)
        _hook(handle, decoder, modules, line, backend)
    except BaseException:
        handle.undo()
        raise
    return handle


def undo(handle: Handle) -> None:
    """Take `use` back: the model computes what it did before, bit for bit.

    A cache that was filled meanwhile holds keys that are not rotated: start with an empty one.
    Raises TypeError for what is no handle, ValueError if it was undone before.
    """
    if not isinstance(handle, Handle):
        raise TypeError(f"handle is {kind_of(handle)}; give what hf.use returned")
    if handle.undone:
        raise ValueError("this was undone already")
    handle.undo()


def _transformers_model(model: Any) -> Any:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is {kind_of(model)}; give a transformers model")
    base = getattr(model, "get_base_model", None)  # PEFT's models
    inner: Any = base() if callable(base) else model
    if not hasattr(inner, "config") or not hasattr(inner.config, "get_text_config"):
        raise TypeError(
            f"model is {type(model).__name__}, which has no transformers config; give a model of "
            "transformers, loaded by AutoModelForCausalLM.from_pretrained"
        )
    return inner


def _decoder(model: nn.Module, line: Architecture) -> Any:
    for module in model.modules():
        if type(module).__name__ == line.decoder:
            return module
    raise ValueError(f"{type(model).__name__} holds no {line.decoder}, which owns the rotation")


def _rotary_width(rotary: nn.Module, config: Any) -> int:
    """Number of channels that the stock rotary module gives cosines for: ask it."""
    place = next(rotary.buffers())
    arguments: list[Any] = [place.new_zeros(1, 1, 1, dtype=torch.float32)]
    arguments.append(torch.zeros(1, 1, dtype=torch.int64, device=place.device))
    if isinstance(getattr(rotary, "rope_type", None), dict):
        arguments.append(layer_types(config)[0])
    return rotary(*arguments)[0].shape[-1]


def _replace(handle: Handle, decoder: Any, unturned: nn.Module, config: Any) -> None:
    attention.register()
    rotary = decoder.rotary_emb
    decoder.rotary_emb = unturned
    handle.later(lambda: setattr(decoder, "rotary_emb", rotary))
    change(handle, config, "_attn_implementation", attention.NAME)


def _hook(
    handle: Handle, decoder: Any, modules: list[Any], line: Architecture, backend: str
) -> None:
    # The hooks take every module from their arguments: a copy of the model has hooks of its own.
    def before(module: Any, inputs: tuple[Any, ...], arguments: dict[str, Any]) -> Any:
        arguments = _by_name(module, inputs, arguments)
        context = context_of(module.rotary_emb, backend, arguments)
        if not line.passes_arguments:
            setattr(module.rotary_emb, attention.WAITING, context)
        return (), arguments | {attention.ARGUMENT: context}

    def after(
        module: nn.Module, inputs: tuple[Any, ...], arguments: dict[str, Any], output: Any
    ) -> None:
        given = tokens_of(arguments)
        cache = getattr(output, "past_key_values", None)
        cache = arguments.get("past_key_values") if cache is None else cache
        remember(arguments[attention.ARGUMENT], cache, given.shape[1], given.device)

    # Inside what is checkpointed, so that it runs again with a layer, on the arguments of its pass.
    def unpack(module: nn.Module, inputs: tuple[Any, ...], arguments: dict[str, Any]) -> Any:
        carrier = arguments.get("position_embeddings")
        return inputs, arguments | {attention.ARGUMENT: getattr(carrier, "context", None)}

    for hook in (
        decoder.register_forward_pre_hook(before, with_kwargs=True),
        decoder.register_forward_hook(after, with_kwargs=True),
    ):
        handle.later(hook.remove)
    if not line.passes_arguments:
        for module in modules:
            handle.later(module.register_forward_pre_hook(unpack, with_kwargs=True).remove)


_POSITIONAL = ("input_ids", "attention_mask", "position_ids", "past_key_values", "inputs_embeds")


def _by_name(
    module: nn.Module, inputs: tuple[Any, ...], arguments: dict[str, Any]
) -> dict[str, Any]:
    """Arguments of the decoder by name."""
    if not inputs:
        return arguments
    if len(inputs) > 1:
        raise TypeError(
            f"{type(module).__name__} was called with {len(inputs)} arguments by position; name "
            "all but input_ids: decoders do not agree on their order"
        )
    return dict(zip(_POSITIONAL, inputs, strict=False)) | arguments
