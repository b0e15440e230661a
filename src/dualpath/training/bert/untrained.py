"""BERT at a size, its weights random: for judging speed if no trained model of that size is at hand."""

from __future__ import annotations

from typing import Any

import numpy as np

from dualpath.extras import needs
from dualpath.training.bert.encoder import Regressor, pooled_size
from dualpath.training.bert.head import Head

with needs("models"):
    import torch
    from transformers import BertConfig, BertModel

BERT_LARGE: dict[str, Any] = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}
"""What sets bert-large-uncased (340 M parameters) apart; vocabulary and positions are those of every uncased BERT."""


def untrained_bert_large(n_layers: int = 24) -> Regressor:
    """Return a regressor of bert-large-uncased's architecture; equal arguments give equal weights.

    Args:
        n_layers: fewer than bert-large has, where only its widths matter.
    """
    config = BertConfig(**BERT_LARGE | {"num_hidden_layers": n_layers})
    config._attn_implementation = "sdpa"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = BertModel(config, add_pooling_layer=False)
    encoder.requires_grad_(False)
    n_columns = pooled_size(encoder)
    # Every hidden state is normalised, so that such a head's scores are around 1, as a trained one's are.
    weight = np.random.default_rng(0).normal(0, n_columns**-0.5, n_columns).astype(np.float32)
    return Regressor(encoder, Head(weight, 0.0))
