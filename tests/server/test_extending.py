"""The changes that docs/extending.md shows, applied to the orchestrator and served beside it."""

import re
import subprocess
import time
import urllib.request

import numpy as np
import pytest
from asking import ask, rows_seen
from starting import start

from dualpath.readability.combine import combine
from dualpath.readability.samples import SAMPLES
from dualpath.readability.tokens import TokenEncoder
from paths import ROOT

DOCUMENT = ROOT / "docs" / "extending.md"
CHANGES = {"cascade": "THRESHOLD", "windows": "engine.windows"}
"""Each change's name here, and a word that tells its diff from the others."""

TEXTS = [text[:length] for text in SAMPLES.values() for length in (200, 400, None)]


def diff_of(change):
    blocks = re.findall(r"^```diff\n(.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    [diff] = [block for block in blocks if CHANGES[change] in block]
    return diff


@pytest.fixture(scope="module")
def changed(model_repository, tmp_path_factory):
    """A model repository in which each changed orchestrator is a model of its own."""
    repository = tmp_path_factory.mktemp("extending") / "model_repository"
    repository.mkdir()
    for child in ("bert-large", "cuml"):
        (repository / child).symlink_to(model_repository / child)
    for change in CHANGES:
        # Patched where the diff says that it lies, then moved to where Triton finds it under its new name.
        original = repository / "orchestrator"
        (original / "1").mkdir(parents=True)
        for file in ("config.pbtxt", "1/model.py"):
            (original / file).write_text((model_repository / "orchestrator" / file).read_text())
        subprocess.run(["git", "apply", "-"], input=diff_of(change), text=True, check=True, cwd=repository.parent)
        config = (original / "config.pbtxt").read_text()
        (original / "config.pbtxt").write_text(config.replace('name: "orchestrator"', f'name: "{change}"'))
        original.rename(repository / change)
    return repository


@pytest.fixture(scope="module")
def server(changed):
    with start(changed) as it:
        yield it


@pytest.fixture(scope="module")
def cascade(changed):
    """THRESHOLD and MARGIN, as the changed model.py has them."""
    line = re.search(r"^THRESHOLD, MARGIN = ([-.\d]+), ([-.\d]+)", (changed / "cascade/1/model.py").read_text(), re.M)
    return float(line[1]), float(line[2])


def expected_cascade(reference, cascade, weights):
    """Return which rows lie within the margin, and all rows' scores."""
    threshold, margin = cascade
    forest, bert = (score([text.encode() for text in TEXTS]) for score in (reference.forest, reference.bert))
    near = abs(forest - np.float32(threshold)) <= np.float32(margin)
    assert 1 < near.sum() < len(TEXTS) - 1
    return near, combine(np.where(near, np.float32(weights), np.float32(0)), bert, forest)


@pytest.mark.parametrize(("weight", "route"), [(0.7, "bert+cuml"), (1, "bert"), (0, "cuml")])
def test_cascade_asks_bert_only_within_the_margin(client, reference, tolerance, cascade, weight, route):
    near, expected = expected_cascade(reference, cascade, [weight] * len(TEXTS))
    before = rows_seen(client, "bert-large")
    scores, routes = ask(client, TEXTS, [weight] * len(TEXTS), model="cascade")
    assert scores[~near].tolist() == expected[~near].tolist()  # the forest's, exactly
    np.testing.assert_allclose(scores[near], expected[near], rtol=0, atol=tolerance)
    assert routes == [route if row else "cuml" for row in near]
    assert rows_seen(client, "bert-large") - before == (near.sum() if weight else 0)


def test_cascade_calls_no_bert_where_the_forest_is_sure_of_every_row(client, reference, cascade):
    near, expected = expected_cascade(reference, cascade, [0.7] * len(TEXTS))
    sure = [text for text, row in zip(TEXTS, near, strict=True) if not row]
    before = rows_seen(client, "bert-large")
    scores, routes = ask(client, sure, [0.7] * len(sure), model="cascade")
    assert scores.tolist() == expected[~near].tolist()
    assert set(routes) == {"cuml"}
    assert rows_seen(client, "bert-large") == before


def test_windows_leave_a_short_excerpt_as_it_was(client, reference):
    [text] = TEXTS[2:3]
    expected = reference.score([text.encode()], np.array([0.7], np.float32))
    before = rows_seen(client, "bert-large")
    assert ask(client, [text], [0.7], model="windows") == (pytest.approx(expected, abs=0), ["bert+cuml"])
    assert rows_seen(client, "bert-large") - before == 1


def test_windows_of_a_long_excerpt_are_averaged_by_their_lengths(client, model_repository, reference, tolerance):
    encoder = TokenEncoder(model_repository / "bert-large" / "1" / "tokenizer.json")
    words = [word for text in TEXTS for word in text.split() if len(encoder.encode([word.encode()])[0]) == 3]
    assert len(words) > 600
    windows = [" ".join(words[:510]), " ".join(words[-510:]), " ".join(words[100:200])]  # 510 words and two marks
    bert = reference.bert([text.encode() for text in (*windows, TEXTS[0])])
    average = np.average(bert[:3], weights=[512, 512, 102])

    before = rows_seen(client, "bert-large")
    scores, routes = ask(client, [TEXTS[0], " ".join(windows), windows[0]], [1, 1, 1], model="windows")
    assert routes == ["bert"] * 3
    assert rows_seen(client, "bert-large") - before == 5
    np.testing.assert_allclose(scores, [bert[3], average, bert[0]], rtol=0, atol=tolerance)
    assert abs(average - bert[0]) > 10 * tolerance  # so that the windows beyond the first show


def test_the_metrics_are_those_that_the_document_lists(server, client):
    ask(client, TEXTS, [0.7] * len(TEXTS), model="cascade")
    late = {"on_bert_late": "fallback"}
    ask(client, TEXTS, [0.7] * len(TEXTS), model="windows", parameters=late, timeout=100_000)  # BERT takes longer
    time.sleep(2)  # they are passed on once a second
    metrics = urllib.request.urlopen(server.metrics_url).read().decode()
    shown = {
        (re.sub("_(bucket|sum|count)$", "", name), frozenset(re.findall(r"(\w+)=", labels)) - {"le", "model"})
        for name, labels in re.findall(r"^(bls_\w+)\{(.*)\}", metrics, re.MULTILINE)
    }
    listed = {
        (name, frozenset(re.findall(r"`(\w+)`", labels)))
        for name, labels in re.findall(r"^\| `(bls_\w+)` \|([^|]*)\|", DOCUMENT.read_text(), re.MULTILINE)
    }
    assert shown == listed
