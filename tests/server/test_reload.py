"""A running server changes from release to release under load: every answer is all of one, and none is missing.

The artifacts are those of `made_up_releases`, so that a mix is seen.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from contextlib import closing, contextmanager

import pytest
from starting import start

from dualpath.readability.contract import SCORERS
from dualpath.repository import publishing, releases
from dualpath.repository.facts import Facts
from dualpath.serving.client import Scorer, connect
from made_up_releases import TEXT, WEIGHTS, made_up, publish, scores_of, write_bert

FLUSH_S = 1.0
"""How often the orchestrator passes its metrics on."""

SCORERS = [model.name for model in SCORERS]
DUALPATH = [sys.executable, "-c", "from dualpath.cli import main; main()"]


class Served:
    """A server on a model repository of its own, and what the command says to it.

    Attributes:
        release, bert, forest: what is served at the end of a test, and which artifacts that release has.
    """

    def __init__(self, repository, server):
        self.repository, self.server = repository, server
        self.release = self.bert = self.forest = self._newest = 1

    def publish(self, *names):
        """Publish new artifacts, by default of both models; return their number k."""
        self._newest += 1
        publish(self.repository, self._newest, *([names] if names else []))
        return self._newest

    def dualpath(self, command, *arguments, started=subprocess.run, **options):
        where = ["--url", self.server.grpc_url, "--model-repository", self.repository]
        return started(
            [*DUALPATH, command, *map(str, [*arguments, *where])],
            env={**os.environ, "COLUMNS": "250"},
            **({"capture_output": True, "timeout": 120} if started is subprocess.run else {}),
            text=True,
            **options,
        )

    def reload(self, *arguments):
        return self.dualpath("reload", *arguments)

    def scores(self, model, client=None):
        client = client or connect(self.server.grpc_url)
        return tuple(Scorer(client, model).score([TEXT] * len(WEIGHTS), WEIGHTS, client_timeout=30).tolist())

    def rows_counted(self):
        """How many rows the orchestrator's own metrics say that it has answered."""
        with urllib.request.urlopen(self.server.metrics_url, timeout=10) as page:
            lines = page.read().decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("bls_rows_total{"))

    def versions(self):
        rows = json.loads(self.dualpath("models", "--json").stdout)["models"]
        return {(row["model"], row["version"]) for row in rows if row["state"] == "ready"}

    @contextmanager
    def under_load(self, models=SCORERS, n_clients=2):
        """Ask these models all the while; give what they answer, counted, and fail on any error."""
        answers, errors = {model: Counter() for model in models}, []
        ended = threading.Event()

        def ask(model):
            client = connect(self.server.grpc_url)
            try:
                while not ended.is_set():
                    answers[model][self.scores(model, client)] += 1
                    time.sleep(0.03)  # leaves the processors time to load models
            except Exception as error:
                errors.append(f"{model}: {error}")
            client.close()

        clients = [threading.Thread(target=ask, args=(model,)) for model in models for _ in range(n_clients)]
        for each in clients:
            each.start()
        try:
            time.sleep(0.3)
            yield answers
            time.sleep(0.3)
        finally:
            ended.set()
            for each in clients:
                each.join()
        assert errors == []


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """One for all tests: each goes on from the release that the one before has left."""
    tmp_path = tmp_path_factory.mktemp("reload")
    repository = made_up(tmp_path / "model_repository")
    with start(repository) as server:
        yield Served(repository, server)


def assert_serves(served, release, bert, forest):
    served.release, served.bert, served.forest = release, bert, forest
    expected = scores_of(bert, forest)
    assert {model: served.scores(model) for model in SCORERS} == dict.fromkeys(SCORERS, expected)
    members = ("bert-large", "cuml", "orchestrator", "preprocess")
    assert served.versions() == {
        *((name, str(release)) for name in members),
        ("ensemble_all", "1"),
        ("postprocess", "1"),
    }
    before = served.rows_counted()
    served.scores("orchestrator")
    time.sleep(2 * FLUSH_S)
    assert served.rows_counted() - before >= len(WEIGHTS)


@pytest.fixture
def with_ensembles(served):
    """`served`, with an ensemble that contains ensemble_all, and one whose author names version 1 in every step."""
    config = (served.repository / "ensemble_all/config.pbtxt").read_text()
    pinned = config.replace('"ensemble_all"', '"ens_v1"').replace("model_version: -1", "model_version: 1")
    head, _, _ = config.partition("ensemble_scheduling")
    names = {"excerpt": "input", "BERT_WEIGHT": "input", "SCORE": "output"}
    maps = " ".join(f'{kind}_map {{ key: "{name}" value: "{name}" }}' for name, kind in names.items())
    step = f'ensemble_scheduling {{ step [ {{ model_name: "ensemble_all" model_version: -1 {maps} }} ] }}'
    added = {"ens_v1": pinned, "outer": head.replace('"ensemble_all"', '"outer"') + step}
    with closing(connect(served.server.grpc_url)) as client:
        for name, text in added.items():
            (served.repository / name / "1").mkdir(parents=True)
            (served.repository / name / "config.pbtxt").write_text(text)
            client.load_model(name)
    yield served
    with closing(connect(served.server.grpc_url)) as client:
        for name in added:
            client.unload_model(name)
            shutil.rmtree(served.repository / name)


def test_a_roll_back_under_load_moves_what_follows_and_leaves_what_is_pinned_and_a_restart_starts(with_ensembles):
    served, models = with_ensembles, ("ensemble_all", "orchestrator", "outer", "ens_v1")
    assert served.publish() == 2
    with served.under_load(models) as answers:
        assert served.reload("--to", 1).stdout == (
            "Nothing new: release 1 is served.\nA restart takes release 2, until you remove it: `dualpath prune 2`.\n"
        )
        for release in (2, 1):
            done = served.reload("--to", release)
            assert done.returncode == 0, done.stderr
            assert done.stdout.startswith(f"Release {release} is served, after ")
            time.sleep(0.2)
    for model in models:
        expected = {scores_of(1)} if model == "ens_v1" else {scores_of(1), scores_of(2)}
        assert answers[model].keys() == expected, answers
    assert "Releases: 2, 1 (served)." in served.dualpath("models").stdout
    served.server.stop()
    served.server.start()
    assert [served.scores(model) for model in models] == [scores_of(2)] * 3 + [scores_of(1)]
    done = served.dualpath("prune")
    assert done.stdout == "Nothing to remove: every release is needed, or has nothing of its own.\n"


def test_what_is_missing_is_said_before_anything_changes(served):
    assert served.reload().returncode == 0  # what the ensembles named is let go of
    now = served.release = releases.newest_release(served.repository)
    k = served.publish()
    (served.repository / f"preprocess/{now + 1}").unlink()
    (served.repository / f"preprocess/{now + 1}").mkdir()
    (served.repository / f"preprocess/{now + 1}/notes.txt").touch()
    done = served.reload()
    assert done.returncode == 2
    assert done.stderr.startswith("dualpath: preprocess: expected its code at ")
    (served.repository / f"cuml/{now}").rename(served.repository / "cuml/lost")
    done = served.reload()
    assert done.returncode == 2
    assert done.stderr.startswith(f"dualpath: cuml: expected the folder of version {now}, which is served, at ")
    (served.repository / "cuml/lost").rename(served.repository / f"cuml/{now}")
    shutil.copy(served.repository / "preprocess/1/model.py", served.repository / f"preprocess/{now + 1}")
    assert served.reload().returncode == 0
    assert_serves(served, now + 1, k, k)
    done = served.reload("postprocess")
    assert (done.returncode, done.stdout[:51]) == (0, "postprocess is served as its code and config are no")
    config = served.repository / "cuml/config.pbtxt"
    config.write_text(config.read_text().replace("KIND_CPU, count: 1", "KIND_CPU, count: 2"))
    done = served.reload("cuml")
    assert (done.returncode, done.stdout[:44]) == (0, "cuml is served as its code and config are no")
    with closing(connect(served.server.grpc_url)) as client:
        assert client.get_model_config("cuml").config.instance_group[0].count == 2
    assert_serves(served, now + 1, k, k)


def test_releases_change_under_load_without_an_answer_lost_or_mixed(served):
    expected = {scores_of(served.bert, served.forest)}
    with served.under_load() as answers:
        for release in (served.release + 1, served.release + 2):
            k = served.publish()
            expected.add(scores_of(k))
            done = served.reload()
            assert done.returncode == 0, done.stderr
            assert done.stdout.startswith(f"Release {release} is served, after ")
            time.sleep(0.2)
    for model in SCORERS:
        assert answers[model].keys() == expected, answers
    assert_serves(served, release, k, k)


def test_a_release_of_one_model_changes_that_one_under_load(served):
    before, k = (served.bert, served.forest), served.publish("cuml")
    new = served.release + 1
    with served.under_load() as answers:
        done = served.reload("bert-large")
        assert done.returncode == 2
        said = f"expected a release that changes this model alone, got release {new}, which changes cuml. Run"
        assert said in done.stderr
        done = served.reload("cuml", "--json")
        assert done.returncode == 0, done.stderr
        said = {"release": new, "before": [new - 1], "loaded": None, "elapsed_s": 0}
        assert {**json.loads(done.stdout), "elapsed_s": 0} == said
    for model in SCORERS:
        assert answers[model].keys() == {scores_of(*before), scores_of(before[0], k)}, answers
    assert_serves(served, new, before[0], k)


def test_if_an_artifact_does_not_load_the_old_release_goes_on(served):
    def broken(folder):
        write_bert(folder, 2)
        (folder / "model.pt").write_text("no model")
        return Facts()

    before, bad = (served.bert, served.forest), served.release + 1
    publishing.publish(served.repository, {"bert-large": broken})
    with served.under_load() as answers:
        done = served.reload()
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("dualpath: bert-large: ")
    assert done.stderr.endswith(
        f"goes on. Publish another release before a restart, or remove it: dualpath prune {bad}.\n"
    )
    for model in SCORERS:
        assert answers[model].keys() == {scores_of(*before)}, answers
    assert_serves(served, bad - 1, *before)
    assert served.dualpath("prune", bad).returncode == 0
    k = served.publish()
    assert served.reload().returncode == 0
    assert_serves(served, bad, k, k)


def test_a_reload_that_is_killed_leaves_one_release_to_each_request_and_the_next_finishes(served):
    expected = {scores_of(served.bert, served.forest)}
    with served.under_load() as answers:
        for pause_s in (1.5, 2.5, 4):
            k = served.publish()
            expected.add(scores_of(k))
            killed = served.dualpath("reload", started=subprocess.Popen, stderr=subprocess.PIPE)
            time.sleep(pause_s)
            killed.send_signal(signal.SIGKILL)
            killed.communicate()
            time.sleep(0.5)
        done = served.reload()
        assert done.returncode == 0, done.stderr
    for model in SCORERS:
        assert answers[model].keys() <= expected, answers
        assert scores_of(k) in answers[model]
    assert_serves(served, releases.newest_release(served.repository), k, k)
