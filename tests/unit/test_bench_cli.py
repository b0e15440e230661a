"""`dualpath bench` with fakes for the servers: its options, its set-ups, what it leaves out, and how it ends."""

import asyncio
import json
import sys
from contextlib import asynccontextmanager, contextmanager
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest

from dualpath import cli
from dualpath.cli.compare_view import Ending
from dualpath.compare import bench_run, setups
from dualpath.compare.breakdown import TurnRows
from dualpath.compare.load import Contender, Turn
from dualpath.compare.setups import InTriton
from paths import REPOSITORY

ALL_CPU, CLIENT, ALL_GPU = "all in Triton, CPU", "client + models on CPU", "all in Triton, GPU"
TEXT_ON_CPU = "all in Triton, text on CPU, models on GPU"


class FakeTriton(InTriton):
    """A set-up that takes so long a row; the last texts of requests are in `seen`."""

    seconds = 0.001
    offset = 0.0

    @asynccontextmanager
    async def connect(self):
        async def score(excerpts):
            await asyncio.sleep(self.seconds * len(excerpts))
            return np.float32([len(excerpt) + self.offset for excerpt in excerpts])

        yield score

    def contender(self, batches):
        return Contender(self.name, batches, ["0.5"] * len(batches), len(batches[0]), lambda _: self.connect())


class FakeRecorder:
    all: ClassVar[list] = []

    def __init__(self, url, models, metrics_url, server_pid):
        self.notes = []
        self.closed = False
        FakeRecorder.n_rows = 0
        FakeRecorder.all.append(self)

    @contextmanager
    def turn(self, contender):
        asked = TurnRows()
        yield asked
        FakeRecorder.n_rows += asked.n_rows

    def steps(self):
        return []

    stages = processes = steps

    def close(self):
        self.closed = True


def server(url):
    own = SimpleNamespace(metrics_url="", pid=1)
    return SimpleNamespace(url=url, own=own, describe=lambda: "triton 2.51.0", engines=dict, gone=lambda: None)


def place(precision="float32", gpu=None, encoder="MiniLM", text_on_cpu=None):
    why_not = {"gpu": "no GPU", "gpu-models": "no GPU"}
    return bench_run.ServedEncoder(
        REPOSITORY, encoder, precision, server(f"cpu-{precision}"), gpu, text_on_cpu, why_not
    )


@pytest.fixture
def places(monkeypatch):
    """Run on these places, with fake set-ups that take a millisecond a row."""
    places = [place()]
    FakeRecorder.all.clear()

    @contextmanager
    def served(*asked):
        yield places

    monkeypatch.setattr(bench_run, "serve_setups", served)
    monkeypatch.setattr(bench_run, "InTriton", FakeTriton)
    monkeypatch.setattr(bench_run, "InClient", type("Client", (FakeTriton,), {}))
    monkeypatch.setattr(bench_run.breakdown, "Recorder", FakeRecorder)
    monkeypatch.setattr(bench_run.breakdown, "timelines", lambda url, requests: ([], []))
    return places


@pytest.fixture
def dualpath(monkeypatch, capfd):
    """dualpath(*arguments) -> exit code, stdout, stderr."""

    def dualpath(*arguments):
        monkeypatch.setattr(sys, "argv", ["dualpath", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, *capfd.readouterr()

    return dualpath


@pytest.fixture
def bench(dualpath):
    """bench(*arguments) -> exit code and the result, read from its JSON."""

    def bench(*arguments):
        code, out, _ = dualpath("bench", "--json", "--duration", "0.06", *arguments)
        return code, json.loads(out)

    return bench


def test_without_a_gpu_its_set_ups_are_named_and_not_measured(places, bench):
    code, result = bench("--batch", "1,2")
    assert code == 0
    assert result["contenders"] == [ALL_CPU, CLIENT, TEXT_ON_CPU, ALL_GPU]
    assert [cell["load"]["batch"] for cell in result["cells"]] == [1, 2]
    for cell in result["cells"]:
        assert cell["not_measured"] == {TEXT_ON_CPU: "no GPU", ALL_GPU: "no GPU"}
        assert cell["measured"].keys() == {ALL_CPU, CLIENT}
        assert cell["compared"].keys() == {CLIENT}
    [parity] = result["parity"]
    assert (parity["other"], parity["n_rows"], parity["n_equal"]) == (CLIENT, 8, 8)
    assert result["verdict"].startswith("One excerpt alone takes ")
    assert result["environment"]["encoder"] == "MiniLM"


def test_the_table_names_the_set_up_that_is_not_measured(places, dualpath):
    code, out, _ = dualpath("bench", "--duration", "0.06", "--batch", "1,2")
    assert code == 0
    assert f"{ALL_GPU}: not measured: no GPU\n" in out
    lines = [line.split() for line in out[out.index("rows/s ") :].splitlines()]  # 80 columns hold it
    assert [line[:5] for line in lines if line[1:5] == ALL_CPU.split()] == [[n, *ALL_CPU.split()] for n in ("1", "2")]


def test_with_a_gpu_the_models_of_the_second_set_up_are_on_it(places, bench):
    places[:] = [place(gpu=server("gpu"), text_on_cpu=server("text on cpu"))]
    code, result = bench("--batch", "1")
    assert code == 0
    on_gpu = ["client + models on GPU", TEXT_ON_CPU, ALL_GPU]
    assert sorted(result["contenders"]) == sorted([ALL_CPU, *on_gpu])
    assert [cell["not_measured"] for cell in result["cells"]] == [{}]
    assert [parity["other"] for parity in result["parity"]] == on_gpu
    assert bench_run.InClient("client", "gpu", REPOSITORY).url == "gpu"


def test_without_rapids_the_text_stays_on_the_cpu_and_the_models_are_on_the_gpu(places, bench):
    places[:] = [place(text_on_cpu=server("text on cpu"))]
    code, result = bench("--batch", "1")
    assert code == 0
    assert [cell["not_measured"] for cell in result["cells"]] == [{ALL_GPU: "no GPU"}]
    assert result["cells"][0]["measured"].keys() == {ALL_CPU, "client + models on GPU", TEXT_ON_CPU}


def test_each_precision_has_its_set_ups_and_is_held_against_itself(places, bench, monkeypatch):
    places[:] = [place(encoder="bert-large, random weights"), place("bfloat16", encoder="bert-large, random weights")]
    monkeypatch.setattr(FakeTriton, "offset", property(lambda self: 0.01 * ("bfloat16" in self.name)))
    code, result = bench("--batch", "1")
    assert code == 0
    assert result["contenders"][0] == f"{ALL_CPU}, float32"
    assert len(result["contenders"]) == 8
    assert [parity["other"] for parity in result["parity"]] == [f"{CLIENT}, float32", f"{CLIENT}, bfloat16"]
    assert [parity["baseline"] for parity in result["parity"]] == [f"{ALL_CPU}, float32", f"{ALL_CPU}, bfloat16"]
    assert [parity["atol"] for parity in result["parity"]] == [2e-5, 2e-2]
    assert any("weights are random" in note for note in result["notes"])


def test_requests_over_the_limit_are_not_sent_and_named(places, bench, monkeypatch):
    monkeypatch.setattr(setups, "LONGEST_REQUEST_S", 0.05)
    monkeypatch.setattr(bench_run.InClient, "seconds", 0.02)
    code, result = bench("--batch", "1,2,4,8")
    assert code == 0
    cells = {cell["load"]["batch"]: cell for cell in result["cells"]}
    assert [batch for batch, cell in cells.items() if CLIENT in cell["measured"]] == [1, 2]
    assert all(ALL_CPU in cell["measured"] for cell in cells.values())
    assert cells[4]["not_measured"][CLIENT].startswith("over 0 s a request: about 0.08")
    assert CLIENT in cells[8]["not_measured"]


def test_set_ups_that_disagree_fail_the_run(places, bench, monkeypatch):
    monkeypatch.setattr(bench_run.InClient, "offset", 1e-3)
    code, result = bench("--batch", "1")
    assert code == 1
    assert result["failed"]
    assert result["parity"][0]["largest"] == pytest.approx(1e-3, rel=0.1)
    assert "WRONG: 8 of 8 answers not within 2e-05." in result["verdict"]


def test_the_latency_of_one_is_measured_at_any_concurrency(places, bench):
    _, result = bench("--batch", "2", "--concurrency", "1,3")
    assert [(cell["load"]["batch"], cell["load"]["concurrency"]) for cell in result["cells"]] == [
        (1, 1),
        (2, 1),
        (2, 3),
    ]


def test_ctrl_c_gives_what_was_measured(places, bench, monkeypatch):
    measure_turn = bench_run.on_server("", 1)

    def until_the_second_load(order):
        if order.load.batch == 2:
            raise KeyboardInterrupt
        return measure_turn(order)

    monkeypatch.setattr(bench_run, "on_server", lambda url, timeout_s: until_the_second_load)
    code, result = bench("--batch", "1,2")
    assert code == 130
    assert [cell["load"]["batch"] for cell in result["cells"] if cell["measured"]] == [1]
    assert "Interrupted after 1 of 2 loads." in result["notes"]
    assert [recorder.closed for recorder in FakeRecorder.all] == [True]


def test_a_server_that_dies_leaves_what_was_measured_and_ends_with_1(places, bench, monkeypatch):
    measure_turn = bench_run.on_server("", 1)
    orders = []

    def until_the_fifth_turn_of_two_rows(order):
        orders.append(order.load.batch)
        if orders.count(2) < 5:  # two of them warm up
            return measure_turn(order)
        places[0].cpu.gone = lambda: "killed"
        return Turn(0.1, 0, 9, {"0.5": []}, first_error="Connection reset by peer")

    monkeypatch.setattr(bench_run, "on_server", lambda url, timeout_s: until_the_fifth_turn_of_two_rows)
    code, result = bench("--batch", "1,2,4")
    assert code == 1
    assert result["failed"]
    assert "The server went away (killed) after 1 of 3 loads." in result["notes"]
    assert [cell["load"]["batch"] for cell in result["cells"]] == [1, 2]
    measured = result["cells"][1]["measured"].values()
    assert [it["latencies_ms"]["50"] > 0 for it in measured] == [True, True]
    assert sum(it["n_errors"] for it in measured) == 9
    assert orders.count(2) == 5


def test_every_recorder_is_closed(places, bench):
    places[:] = [place(gpu=server("gpu"))]
    assert bench("--batch", "1")[0] == 0
    assert [recorder.closed for recorder in FakeRecorder.all] == [True, True]


def test_a_shape_without_a_precision_is_measured_in_those_of_the_cpu(places, dualpath, monkeypatch):
    asked = []

    @contextmanager
    def served(*arguments):
        asked.append(arguments[2:4])
        yield places

    monkeypatch.setattr(bench_run, "serve_setups", served)
    quick = ("bench", "--duration", "0.06", "--batch", "1")
    dualpath(*quick, "--encoder-shape", "bert-large")
    dualpath(*quick)
    assert asked == [("bert-large", ["float32", "bfloat16"]), ("minilm", [])]


@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_what_was_measured_is_printed_before_the_server_is_stopped(places, dualpath, monkeypatch, arguments):
    @contextmanager
    def served(*asked):
        yield places
        raise KeyboardInterrupt  # an impatient user's second one

    monkeypatch.setattr(bench_run, "serve_setups", served)
    code, out, _ = dualpath("bench", "--duration", "0.06", "--batch", "1", *arguments)
    assert code == 130
    assert "One excerpt alone takes " in out


def test_ctrl_c_during_the_comparison_of_answers_leaves_a_verdict(places, bench, monkeypatch):
    def until_the_third(self, text, fraction):
        if text.startswith("Comparing answers: 3"):
            raise KeyboardInterrupt

    monkeypatch.setattr(Ending, "show_progress", until_the_third)
    code, result = bench("--batch", "1")
    assert (code, result["cells"]) == (130, [])
    assert result["verdict"] == "SCORE: equal to the last bit in 2 rows."


def test_the_rows_of_a_turn_are_counted_with_those_that_warm_up(places, bench):
    asked = []
    original = FakeTriton.connect

    @asynccontextmanager
    async def counting(self):
        async with original(self) as score:
            yield lambda excerpts: asked.append(len(excerpts)) or score(excerpts)

    for fake in (FakeTriton, bench_run.InClient):
        fake.connect = counting
    try:
        bench("--batch", "4", "--concurrency", "2")
    finally:
        FakeTriton.connect = original
        del bench_run.InClient.connect
    assert sum(asked) - 2 * 8 == FakeRecorder.n_rows  # less the eight excerpts that both answered first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--batch", "0"), "--batch: expected whole numbers above 0"),
        (("--batch", "1,many"), "got 'many'"),
        (("--batch", "1024"), "--batch: expected at most 512 rows a request, got 1024."),
        (("--concurrency", "-1"), "--concurrency: expected whole numbers above 0"),
        (("--concurrency", "10001"), "--concurrency: expected at most 10,000, got 10001. Give less."),
        (("--duration", "-1"), "--duration: expected a number of seconds above 0, got -1."),
        (("--precision", "int4"), "--precision: expected float32, bfloat16, float16 or int8, got 'int4'."),
        (("--input", "none.csv"), "--input: expected a file, got 'none.csv'"),
        (("--model-repository", "none"), "none: expected a model repository, got no such folder."),
    ],
)
def test_wrong_use_is_one_sentence(dualpath, arguments, message):
    code, out, err = dualpath("bench", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.startswith("dualpath: ")


def test_a_row_of_two_excerpts_is_refused_before_anything_starts(dualpath, tmp_path):
    path = tmp_path / "in.json"
    path.write_text(json.dumps({"data": [{"excerpt": ["one", "two"], "BERT_WEIGHT": [0.5, 0.5]}]}))
    code, _, err = dualpath("bench", "--input", path)
    assert code == 2
    assert "data[0]: expected one excerpt, got 2" in err
