"""The BERT regressor: an encoder, its hidden states pooled, one linear layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from dualpath.errors import UserError
from dualpath.extras import needs
from dualpath.training.bert.head import Head

with needs("models"):
    import torch
    from transformers import BertModel
    from transformers.utils import logging


class Regressor(torch.nn.Module):
    """Score token ids. The encoder may be of any precision; pooling and head are float32.

    The head's size says what it reads: all hidden states, or the last one.
    """

    def __init__(self, encoder: BertModel, head: Head) -> None:
        super().__init__()
        self.encoder = encoder
        columns, all_columns = int(encoder.config.hidden_size), pooled_size(encoder)
        if head.weight.shape not in ((columns,), (all_columns,)):
            raise UserError(
                f"regression head: expected {columns} or {all_columns} weights for this encoder, got "
                f"{head.weight.size}. Fit a head for it with `dualpath train bert`."
            )
        self.head = torch.nn.Linear(head.weight.size, 1)
        self._n_states = head.weight.size // columns
        with torch.no_grad():
            self.head.weight.copy_(torch.from_numpy(head.weight))
            self.head.bias.fill_(head.bias)
        self.eval()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Score int64 [rows, tokens] ids and mask: float32 [rows, 1], higher is easier."""
        return cast(torch.Tensor, self.head(self.pooled(input_ids, attention_mask)))

    def pooled(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return what the head reads, float32 [rows, its columns]."""
        return pool(self.encoder, input_ids, attention_mask, self._n_states)


class Pooled(torch.nn.Module):
    """Pool an encoder's hidden states as `pool` does."""

    def __init__(self, encoder: BertModel) -> None:
        super().__init__()
        self._encoder = encoder
        self.eval()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return float32 [rows, `pooled_size(encoder)`]."""
        return pool(self._encoder, input_ids, attention_mask)


def pool(
    encoder: BertModel, input_ids: torch.Tensor, attention_mask: torch.Tensor, n_states: int | None = None
) -> torch.Tensor:
    """Average hidden states over the tokens, side by side: the embeddings' and every layer's, or the last few.

    Args:
        input_ids, attention_mask: int64 [rows, tokens].
    Returns:
        float32 [rows, `pooled_size(encoder)`], or [rows, n_states * hidden size].
    """
    n_rows, n_places = input_ids.shape
    # Left to itself, transformers makes both of numbers that a trace keeps on the device where it was traced.
    output = encoder(
        input_ids=input_ids,
        attention_mask=attention_mask.to(torch.bool)[:, None, None, :].expand(n_rows, 1, n_places, n_places),
        position_ids=encoder.embeddings.position_ids[:, :n_places],
        output_hidden_states=True,
    )
    states = output.hidden_states[-(n_states or 0) :]
    mask = attention_mask.unsqueeze(-1).to(torch.float32)
    n_tokens = mask.sum(dim=1)
    means = [(state.to(torch.float32) * mask).sum(dim=1) / n_tokens for state in states]
    return torch.cat(means, dim=-1)


def pooled_size(encoder: BertModel) -> int:
    """Return the number of columns that `pool` gives: MiniLM's 6 layers of 384 -> 7 * 384 = 2,688."""
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
