"""A partition is scored by servers that fail, refuse and come back; a made-up Triton stands in for them."""

import json
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet
from served_models import Model, Refusal, lengths, served
from tritonclient.utils import InferenceServerException

from dualpath import cli
from dualpath.errors import UserError
from dualpath.scale import dataset, scorer
from dualpath.scale.job import _scorers
from dualpath.scale.output import Output
from dualpath.scale.scorer import PartitionScorer

COLUMNS = {
    "score": ["old"] * 5,
    "excerpt": ["a cat", "...", "refuse me", "nan here", "cats and dogs"],
    "bert_weight": [1.0, 0.5, 0.5, 0.5, None],
}


def infer(inputs):
    """The length of an excerpt times its weight; some texts are refused, some have no score."""
    texts = inputs["excerpt"][:, 0]
    if any(text.startswith(b"refuse") for text in texts):
        raise Refusal("excerpt[0]: expected another text")
    scores = lengths(inputs)["SCORE"]
    scores[[text.startswith(b"nan") for text in texts]] = np.nan
    return {"SCORE": scores}


@pytest.fixture(autouse=True)
def rest(monkeypatch):
    monkeypatch.setattr(scorer, "REST_S", 0.05)


@pytest.fixture
def start():
    """start(infer) -> the address of a made-up Triton."""
    with ExitStack() as stack:
        yield lambda infer=infer: stack.enter_context(served({"orchestrator": Model(infer)}))[0]


@pytest.fixture
def scored(tmp_path):
    """scored(urls) -> what came back of a partition, its scores and its rejected rows."""

    def scored(*urls, columns=COLUMNS, retry_for_s=10.0):
        source, output = tmp_path / "in.parquet", tmp_path / "out"
        parquet.write_table(pyarrow.table(columns), source)
        data = dataset.plan(str(source), 1024)
        partition_scorer = PartitionScorer(
            str(output), data.schema, urls, tmp_path, "orchestrator", 0.25, retry_for_s, 2
        )
        [partition] = data.partitions
        back = partition_scorer(vars(partition))
        tables = [output / name / "part-00000.parquet" for name in ("scores", "rejected")]
        return back, *(parquet.read_table(it).to_pylist() if it.exists() else None for it in tables)

    return scored


def nobody():
    """An address at which nothing listens."""
    with socket.socket() as it:
        it.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{it.getsockname()[1]}"


def test_rows_get_their_scores_and_the_others_their_reasons(start, scored, tmp_path):
    back, scores, rejected = scored(start())
    where = f"{tmp_path}/in.parquet"
    assert back == {"partition": 0, "n_scored": 2, "n_rejected": 3, "error": ""}
    assert scores == [
        {"excerpt": "a cat", "source_row": f"{where}:1", "bert_weight": 1.0, "score": 5.0},
        {"excerpt": "cats and dogs", "source_row": f"{where}:5", "bert_weight": 0.25, "score": 3.25},
    ]
    assert [(it["source_row"], it["excerpt"], it["score"], it["bert_weight"]) for it in rejected] == [
        (f"{where}:2", "...", "old", 0.5),
        (f"{where}:3", "refuse me", "old", 0.5),
        (f"{where}:4", "nan here", "old", 0.5),
    ]
    assert [it["reason"] for it in rejected] == [
        f"{where}:2: excerpt: expected text with at least one word, got '...'. Leave the row out.",
        f"{where}:3: excerpt[0]: expected another text",
        f"{where}:4: expected a finite score, got nan. Train the model.",
    ]


def test_rows_without_a_score_alone_still_make_a_partition(start, scored):
    back, scores, rejected = scored(start(), columns={"excerpt": ["...", "?"]})
    assert (back["n_scored"], back["n_rejected"]) == (0, 2)
    assert scores == []
    assert len(rejected) == 2


MANY = {"excerpt": ["word " * i for i in range(1, 201)], "bert_weight": [1.0] * 200}


def test_a_server_that_is_away_is_stood_in_for(start, scored):
    back, scores, _ = scored(nobody(), start(), columns=MANY)
    assert back["error"] == ""
    assert [it["score"] for it in scores] == [5.0 * i for i in range(1, 201)]


def test_a_server_that_fails_for_a_while_is_asked_again(start, scored):
    calls, lock = [], threading.Lock()

    def fails(inputs):
        with lock:
            calls.append(1)
            n_calls = len(calls)
        if n_calls < 4:
            raise RuntimeError("Stub process 'orchestrator_0_0' is not healthy")
        return infer(inputs)

    back, scores, rejected = scored(start(fails), columns=MANY)
    assert back == {"partition": 0, "n_scored": 200, "n_rejected": 0, "error": ""}
    assert [it["score"] for it in scores] == [5.0 * i for i in range(1, 201)]
    assert rejected is None


def test_nothing_is_written_if_no_server_answers(start, scored):
    def fails(inputs):
        raise RuntimeError("out of order")

    back, scores, rejected = scored(start(fails), columns=MANY, retry_for_s=0.3)
    failure = "orchestrator: expected scores, got failures for 0.3 s, the last: out of order"
    assert back == {"partition": 0, "n_scored": 0, "n_rejected": 0, "error": failure}
    assert (scores, rejected) == (None, None)
    back, scores, _ = scored(nobody())
    assert "expected a Triton server at" in back["error"]
    assert scores is None


def test_rows_are_not_rejected_if_the_server_refuses_whoever_asks(start, scored, monkeypatch):
    def refuse(*_, **__):
        raise InferenceServerException("wrong key", "StatusCode.UNAUTHENTICATED")

    monkeypatch.setattr(scorer.Scorer, "score", refuse)
    back, scores, rejected = scored(start(), retry_for_s=0.1)
    assert back["error"].endswith("the last: wrong key")
    assert (scores, rejected) == (None, None)


def test_a_server_that_hangs_for_longer_than_is_retried_is_stood_in_for(start, scored, monkeypatch):
    score, hung = scorer.Scorer.score, []

    def hangs_once(*given, **options):
        if not hung:
            hung.append(1)
            time.sleep(0.2)
            raise InferenceServerException("Deadline Exceeded", "StatusCode.DEADLINE_EXCEEDED")
        return score(*given, **options)

    monkeypatch.setattr(scorer.Scorer, "score", hangs_once)
    back, *_ = scored(start(), columns=MANY, retry_for_s=0.15)
    assert (back["n_scored"], back["error"]) == (200, "")


def node(cpu, alive=True):
    return {"Alive": alive, "Resources": {"CPU": cpu} if cpu else {}}


@pytest.mark.parametrize(
    ("nodes", "n_urls", "n_partitions", "expected"),
    [
        ([node(2), node(2), node(0), node(8, alive=False)], 0, 100, (2, 2)),
        ([node(2), node(5)], 0, 100, (2, 3)),
        ([node(4), node(4)], 0, 1, (4, 1)),
        ([node(4), node(4), node(4)], 2, 100, (1, 2)),
        ([node(4)], 5, 100, (1, 1)),
    ],
)
def test_each_node_has_as_many_scorers_as_the_smallest_node_fits_in(nodes, n_urls, n_partitions, expected):
    assert _scorers(nodes, n_urls, n_partitions) == expected


def test_a_cluster_without_cores_is_refused():
    with pytest.raises(UserError, match="expected nodes with a core each, got none"):
        _scorers([node(0)], 0, 1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--runner", "ray", "a text"], "--runner ray: expected --file, got TEXT"),
        (["--runner", "ray", "--file", "in.csv", "--local"], "--runner ray: expected --file, got TEXT"),
        (["--runner", "ray", "--file", "in.csv"], "expected --output with a folder for the scores, got none"),
        (
            ["--runner", "ray", "--file", "no.csv", "--output", "out"],
            "no.csv: expected a file or a folder",
        ),
        (["--url", "a:1", "--url", "b:1", "a text"], "several --url: expected --runner ray beside them"),
        (["--address", "auto", "a text"], "--address, several --url: expected --runner ray"),
    ],
)
def test_options_that_do_not_go_together_are_refused(monkeypatch, capsys, tmp_path, arguments, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["dualpath", "score", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert words in capsys.readouterr().err.replace("\n", " ")


@pytest.fixture
def resumed(tmp_path):
    """resumed(rejected, text) -> how `--resume` ends on a finished job with these rejected rows and this job.json."""

    def resumed(rejected=(), text=None):
        (tmp_path / "in.csv").write_text("excerpt\none cat\n")
        data = dataset.plan(str(tmp_path / "in.csv"), 1024)
        job = {"source": f"file://{tmp_path}/in.csv", "model": "orchestrator", "bert_weight": 0.7}
        output = Output(str(tmp_path / "out"))
        output.begin(job | {"partition_rows": 1024, "sizes": data.sizes}, data.partitions, False)
        output.write(data.partitions[0], pyarrow.table({"score": [1.0]}), pyarrow.table({"reason": list(rejected)}))
        if text is not None:
            (tmp_path / "out" / "job.json").write_text(text)
        command = ["score", "--runner", "ray", "--file", tmp_path / "in.csv", "--output", tmp_path / "out", "--resume"]
        return subprocess.run(
            [sys.executable, "-m", "dualpath", *map(str, command), "--json"],
            capture_output=True,
            text=True,
            check=False,
        )

    return resumed


def test_a_finished_job_is_done_without_a_cluster(resumed):
    done = resumed()
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {"n_partitions": 1, "n_done": 1, "n_scored": 0, "n_rejected": 0}


def test_a_finished_job_with_rows_without_a_score_ends_as_it_first_did(resumed, tmp_path):
    done = resumed(["no word", "no word either"])
    assert (done.returncode, json.loads(done.stdout)["n_rejected"]) == (1, 2)
    assert done.stderr == f"dualpath: {tmp_path}/out: expected scores, got none for 2 rows. See rejected/.\n"


@pytest.mark.parametrize("text", ["{", "7", "[1, 2]"])
def test_a_job_that_is_no_json_is_refused_in_a_sentence(resumed, text):
    done = resumed(text=text)
    assert (done.returncode, done.stdout) == (2, "")
    assert "out: expected a job in job.json, got no such JSON: " in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_second_job_on_an_output_is_refused_while_the_first_runs(resumed, tmp_path):
    with Output(str(tmp_path / "out")).alone():
        done = resumed()
    assert (done.returncode, done.stdout) == (2, "")
    assert "out: expected a folder of its own, got one that another job writes to. Wait until it" in done.stderr
    with Output(str(tmp_path / "out")).alone():
        pass
