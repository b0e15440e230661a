"""Small TorchScript models, and what they take."""

import torch

from dualpath.inference import Input

FLOATS, WHOLE = Input("float32", (-1, 4)), Input("int64", (-1, -1))


class Sum(torch.nn.Module):
    def forward(self, a: torch.Tensor):
        return (a * 2.0 + 1.0).sum(1, keepdim=True)
