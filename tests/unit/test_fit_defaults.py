"""The small numbers of the default models, fitted anew from a file."""

import importlib.util
import io

import numpy as np
import pytest
from rich.console import Console
from tiny_bert import save_encoder, write_corpus

from dualpath.errors import UserError
from dualpath.training.bert import encoders
from dualpath.training.bert.regressor import Head
from dualpath.training.build import HEAD, TABLE
from dualpath.training.forest import ForestTable
from paths import ROOT

SPEC = importlib.util.spec_from_file_location("fit_defaults", ROOT / "tools" / "fit_defaults.py")
fit_defaults = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(fit_defaults)


@pytest.fixture
def fitted(tmp_path, monkeypatch):
    """fitted(file) -> what was printed; the files are in `new`."""
    folder = save_encoder(tmp_path / "encoder")
    monkeypatch.setattr(encoders, "minilm_folder", lambda: folder)

    def fitted(file):
        shown = io.StringIO()
        fit_defaults.fit(file, tmp_path / "new", Console(file=shown, width=120))
        return shown.getvalue()

    return fitted


def test_both_files_are_written_and_the_errors_shown(fitted, tmp_path):
    shown = fitted(write_corpus(tmp_path / "rated.csv"))
    head, table = Head.load(tmp_path / "new" / HEAD.name), ForestTable.load(tmp_path / "new" / TABLE.name)
    assert head.weight.shape == (3 * 16,)
    assert table.counts.shape[0] == len(table.targets) == 40
    assert np.isfinite(head.weight).all()
    for row in ("target's standard deviation", "forest", "BERT head", "blend, weight 0.5", "blend, best weight"):
        assert row in shown


def test_rows_that_cannot_be_used_leave_the_files(fitted, tmp_path):
    fitted(write_corpus(tmp_path / "rated.csv"))
    before = {path.name: path.read_bytes() for path in (tmp_path / "new").iterdir()}
    (tmp_path / "bad.csv").write_text("excerpt,target\nOne.,1\n,2\n")
    with pytest.raises(UserError, match="line 3: expected an excerpt"):
        fitted(tmp_path / "bad.csv")
    assert {path.name: path.read_bytes() for path in (tmp_path / "new").iterdir()} == before
