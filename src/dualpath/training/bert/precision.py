"""The precision that an encoder computes in."""

from __future__ import annotations

from dualpath.extras import needs

with needs("models"):
    import torch
    from torch.nn.functional import linear

INT8 = "int8"


def set_precision(encoder: torch.nn.Module, precision: str) -> None:
    """Change an encoder to a floating-point type by its torch name, or its linear layers' weights to int8."""
    if precision == INT8:
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
        return linear(inputs, self.weight.to(torch.float32) * self.scale, self.bias)


def _quantize(module: torch.nn.Module) -> None:
    for name, child in list(module.named_children()):
        if isinstance(child, torch.nn.Linear):
            setattr(module, name, Int8Linear(child))
        else:
            _quantize(child)
