"""The precision of the regressor's encoder, and its TorchScript export, compared with the eager model.

What is exported computes where its inputs lie, so that one file serves the CPU and a GPU.
"""

import errno
import os
import shutil
import warnings
from pathlib import Path
from typing import Any, cast

import torch

from dualpath.readability.contract import MAX_TOKENS
from dualpath.training.bert.regressor import Regressor, quiet

CHECKED_SHAPES = [(rows, tokens) for rows in (1, 3) for tokens in (64, 128, MAX_TOKENS)]


def set_precision(encoder: torch.nn.Module, precision: str) -> None:
    """Change an encoder to a floating-point type by its torch name, or its linear layers' weights to int8."""
    if precision == "int8":
        _quantize(encoder)
    else:
        encoder.to(getattr(torch, precision))


class Int8Linear(torch.nn.Module):
    """A linear layer whose weights are int8, with a scale for each output.

    By torch it computes in float32. OpenVINO rounds its inputs to int8 too, in groups of each token's columns.
    """

    weight: torch.Tensor
    scale: torch.Tensor

    def __init__(self, layer: torch.nn.Linear) -> None:
        super().__init__()
        weight = layer.weight.detach().to(torch.float32)
        scale = weight.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) / 127
        self.register_buffer("weight", torch.round(weight / scale).to(torch.int8))
        self.register_buffer("scale", scale)
        self.bias = layer.bias

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the layer's outputs: float32."""
        return torch.nn.functional.linear(inputs, self.weight.to(torch.float32) * self.scale, self.bias)


def _quantize(module: torch.nn.Module) -> None:
    for name, child in list(module.named_children()):
        if isinstance(child, torch.nn.Linear):
            setattr(module, name, Int8Linear(child))
        else:
            _quantize(child)


def trace(regressor: Regressor) -> torch.jit.ScriptModule:
    """Trace a regressor; rows and tokens stay dynamic.

    Raises:
        RuntimeError: the traced regressor scores something else than the eager one at one of several shapes, or
            computes on a device of its own.
    """
    traced = frozen(regressor, example(regressor, 3, 128))
    check_devices(traced)
    check(traced, regressor)
    return traced


def frozen(module: torch.nn.Module, inputs: tuple[torch.Tensor, torch.Tensor]) -> torch.jit.ScriptModule:
    """Trace a module, and freeze it unless its weights are int8; nothing is checked."""
    with quiet(), torch.inference_mode(), warnings.catch_warnings():
        # The tracer warns of every Python branch in transformers; comparing the scores tells whether one matters.
        warnings.simplefilter("ignore")
        traced = cast(torch.jit.ScriptModule, torch.jit.trace(module, inputs, check_trace=False))
        # Freezing would multiply int8 weights by their scales, and so store them as float32.
        is_int8 = any(isinstance(part, Int8Linear) for part in module.modules())
        return traced if is_int8 else torch.jit.freeze(traced)


def export_regressor(regressor: Regressor, path: Path) -> None:
    """Trace a regressor, save it for `torch.jit.load`, and hold the saved file against the regressor."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Triton's pytorch backend takes TorchScript
        traced = trace(regressor)
        _check_room(regressor, path)
        traced.save(str(path))
        check(torch.jit.load(str(path)), regressor)


def _check_room(regressor: Regressor, path: Path) -> None:
    """Raise OSError if a regressor's weights do not fit on the disk: torch would abort the process."""
    n_bytes = sum(tensor.nbytes for tensor in regressor.state_dict().values())
    if shutil.disk_usage(path.parent).free < n_bytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def check_devices(traced: torch.jit.ScriptModule) -> None:
    """Raise RuntimeError if the graph names a device; weights lie where `torch.jit.load` puts them."""
    graph: Any = traced.inlined_graph
    for constant in graph.findAllNodes("prim::Constant"):
        device, uses = constant.output().toIValue(), constant.output().uses()
        if isinstance(device, torch.device) and uses:
            kind = uses[0].user.kind()
            raise RuntimeError(f"traced regressor: expected no device in its graph, got {kind} on {device}.")


def check(traced: torch.jit.ScriptModule, regressor: Regressor) -> None:
    """Raise RuntimeError unless both give bitwise equal scores."""
    with torch.inference_mode():
        for rows, tokens in CHECKED_SHAPES:
            inputs = example(regressor, rows, tokens)
            eager = regressor(*inputs)
            for _ in range(2):  # TorchScript runs once to profile, then as it optimised itself
                difference = float((traced(*inputs) - eager).abs().max())
                if difference != 0:
                    raise RuntimeError(
                        f"traced regressor, {rows} rows of {tokens} tokens: expected the eager model's scores, "
                        f"got {difference:.1e} apart."
                    )


def example(regressor: Regressor, rows: int, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return arbitrary ids and a ragged mask, int64 [rows, tokens]; row 0 is full."""
    generator = torch.Generator().manual_seed(rows * tokens)
    lengths = tokens - torch.arange(rows)[:, None] * (tokens // (rows + 1))
    attention_mask = (torch.arange(tokens) < lengths).to(torch.int64)
    vocabulary = regressor.encoder.config.vocab_size
    return torch.randint(vocabulary, (rows, tokens), generator=generator) * attention_mask, attention_mask
