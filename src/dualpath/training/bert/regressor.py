"""The BERT regressor: an encoder, its hidden states pooled, one linear layer that ridge regression fits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from transformers import BertConfig, BertModel
from transformers.utils import logging

from dualpath.errors import UserError

PENALTIES = np.logspace(0, 3, 7)
"""Ridge penalties to choose from: 1, 3.16, 10, ... 1,000."""
BERT_LARGE: dict[str, Any] = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}
"""What sets bert-large-uncased (340 M parameters) apart; vocabulary and positions are those of every uncased BERT."""


@dataclass(frozen=True)
class Head:
    """`pooled @ weight + bias`, with weight float32 [columns]."""

    weight: npt.NDArray[np.float32]
    bias: float

    @classmethod
    def load(cls, path: Path) -> Head:
        """Read what `save` wrote."""
        with np.load(path) as arrays:
            return cls(arrays["weight"], float(arrays["bias"]))

    def save(self, path: Path) -> None:
        """Write a compressed .npz file; equal heads give equal bytes."""
        np.savez_compressed(path, weight=self.weight, bias=np.float32(self.bias))

    def predict(self, pooled: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Score pooled hidden states: float32 [rows, columns] -> float32 [rows]."""
        return pooled @ self.weight + np.float32(self.bias)


def fit_head(pooled: npt.NDArray[np.float32], targets: npt.NDArray[np.float32]) -> tuple[Head, float]:
    """Fit a head by ridge regression.

    Args:
        pooled: float32 [rows, columns].
        targets: float32 [rows].
    Returns:
        The head, and the penalty that leave-one-out cross-validation on these rows chose.
    """
    from sklearn.linear_model import RidgeCV

    # Not standardised: layer norms already put the columns on one scale, and MiniLM has dead columns (about 1e-33)
    # whose weights would become huge.
    ridge = RidgeCV(PENALTIES).fit(pooled.astype(np.float64), targets.astype(np.float64))
    return Head(ridge.coef_.astype(np.float32), float(ridge.intercept_)), float(ridge.alpha_)


class Pooled(torch.nn.Module):
    """Average an encoder's hidden states over the tokens, side by side.

    Args:
        encoder: of any precision.
        n_states: how many of the last hidden states; 0 is the embeddings' and every layer's.
    """

    def __init__(self, encoder: BertModel, n_states: int = 0) -> None:
        super().__init__()
        self.encoder = encoder
        self._n_states = n_states
        self.eval()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return what `pooled` does."""
        return self.pooled(input_ids, attention_mask)

    def pooled(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Pool int64 [rows, tokens] ids and mask: float32 [rows, states * hidden size]."""
        n_rows, n_places = input_ids.shape
        # Left to itself, transformers makes both of numbers that a trace keeps on the device where it was traced.
        output = self.encoder(
            input_ids=input_ids,
            attention_mask=attention_mask.to(torch.bool)[:, None, None, :].expand(n_rows, 1, n_places, n_places),
            position_ids=self.encoder.embeddings.position_ids[:, :n_places],
            output_hidden_states=True,
        )
        mask = attention_mask.unsqueeze(-1).to(torch.float32)
        n_tokens = mask.sum(dim=1)
        states = output.hidden_states[-self._n_states :]
        return torch.cat([(state.to(torch.float32) * mask).sum(dim=1) / n_tokens for state in states], dim=-1)


class Regressor(Pooled):
    """Score token ids. The encoder may be of any precision; pooling and head are float32.

    The head's size says what it reads: all hidden states, or the last one.
    """

    def __init__(self, encoder: BertModel, head: Head) -> None:
        columns, all_columns = int(encoder.config.hidden_size), pooled_size(encoder)
        if head.weight.shape not in ((columns,), (all_columns,)):
            raise UserError(
                f"regression head: expected {columns} or {all_columns} weights for this encoder, got "
                f"{head.weight.size}. Fit a head for it with `dualpath train bert`."
            )
        super().__init__(encoder, head.weight.size // columns)
        self.head = torch.nn.Linear(head.weight.size, 1)
        with torch.no_grad():
            self.head.weight.copy_(torch.from_numpy(head.weight))
            self.head.bias.fill_(head.bias)
        self.eval()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Score int64 [rows, tokens] ids and mask: float32 [rows, 1], higher is easier."""
        return cast(torch.Tensor, self.head(self.pooled(input_ids, attention_mask)))


def pooled_size(encoder: BertModel) -> int:
    """Return the number of columns of all hidden states: MiniLM's 6 layers of 384 -> 7 * 384 = 2,688."""
    return int((encoder.config.num_hidden_layers + 1) * encoder.config.hidden_size)


def load_encoder(folder: Path) -> BertModel:
    """Load a BERT encoder from a Hugging Face folder, without network access.

    Raises:
        UserError: the folder holds no BERT model, or one that lacks weights.
    """
    try:
        with quiet():
            loaded = BertModel.from_pretrained(
                folder,
                local_files_only=True,
                attn_implementation="sdpa",
                add_pooling_layer=False,
                dtype=torch.float32,
                output_loading_info=True,
            )
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{folder}: expected a BERT model in Hugging Face's layout, got: {reason} Name another."
        ) from error
    encoder, loading = cast(tuple[BertModel, dict[str, set[str]]], loaded)
    if loading["missing_keys"]:
        raise UserError(
            f"{folder}: expected a BERT model, got one without {sorted(loading['missing_keys'])[0]}. "
            "Name a folder whose config.json and weights belong together."
        )
    encoder.requires_grad_(False)
    return encoder


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers: its load report (MiniLM's unused pooler), progress bar and hints."""
    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def untrained_bert_large(n_layers: int = 24) -> Regressor:
    """Return a regressor of bert-large-uncased's architecture; equal arguments give equal weights.

    Args:
        n_layers: fewer than bert-large has, if only its widths matter.
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
