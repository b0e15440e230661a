"""Weights between fits: the mean of several that began at the same weights, and a part of the way back to these.

Both fit the rows less than a single fit's weights and others better: model soups (Wortsman et al.,
https://arxiv.org/abs/2203.05482) and WiSE-FT (Wortsman et al., https://arxiv.org/abs/2109.01903).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dualpath.extras import needs

with needs("models"):
    import torch


Weights = dict[str, torch.Tensor]
"""By a parameter's name, of what is fitted."""

SHARES = (0.25, 0.5, 0.75, 1.0)
"""Of the way from the weights at the start to the fitted ones: what is tried."""


def mean(weights: Sequence[Weights]) -> Weights:
    """Return the mean of several fits' weights."""
    return {name: torch.stack([of_one[name] for of_one in weights]).mean(dim=0) for name in weights[0]}


def between(start: Weights, fitted: Weights, share: float) -> Weights:
    """Return the weights at a share of the way: 0 -> start, 1 -> fitted."""
    return {name: torch.lerp(start[name], fitted[name], share) for name in fitted}


def best_share(start: Weights, fitted: Weights, error: Callable[[Weights], float]) -> float:
    """Return the one of SHARES with the smallest error."""
    return min(SHARES, key=lambda share: error(between(start, fitted, share)))
