"""`dualpath compare` on models that this process serves: what it refuses, what it prints, and how it ends."""

import json
import sys
import time

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from served_models import PAIR, Model, Refusal, lengths, served

from dualpath import cli
from dualpath.readability.contract import EXCERPT, Tensor

UNKNOWN_PRECISION = "The precision of the server is unknown; the tolerance is float32's: give --atol for another."
QUICK = ("--duration", "0.3", "--concurrency", "2", "--batch", "1")


def not_a_number(inputs):
    return {"SCORE": lengths(inputs)["SCORE"] * np.nan}


def off_by_a_thousandth(inputs):
    """Wrong for texts of 300 bytes and more."""
    score = lengths(inputs)["SCORE"]
    return {"SCORE": score + np.float32(1e-3) * (score >= 0.5 * 300)}


def picky(inputs):
    if b"bad luck" in inputs["excerpt"][0, 0]:
        raise Refusal("excerpt[0]: expected good luck.")
    return lengths(inputs)


MODELS = {
    **PAIR,
    "off_by_a_thousandth": Model(off_by_a_thousandth),
    "wrong": Model(lambda inputs: {"SCORE": lengths(inputs)["SCORE"] + 1}),
    "wide": Model(inputs=(EXCERPT, Tensor("BERT_WEIGHT", "TYPE_FP64", (-1,)))),
    "other_output": Model(outputs=(Tensor("OTHER", "TYPE_FP32", (1,)),)),
    "unweighted": Model(
        lambda inputs: {"SCORE": inputs["X"] * 2}, inputs=(Tensor("X", "TYPE_FP32", (1,)),), max_batch_size=4
    ),
    "optional": Model(
        lambda inputs: {"SCORE": inputs["X"] * len(inputs)},
        inputs=(Tensor("X", "TYPE_FP32", (1,)), Tensor("Y", "TYPE_FP32", (1,))),
        optional=frozenset({"Y"}),
    ),
    "not_a_number": Model(not_a_number),
    "picky": Model(picky),
    "slow": Model(lambda inputs: time.sleep(0.5) or lengths(inputs)),
}


@pytest.fixture(scope="module")
def url():
    with served(MODELS) as (url, _):
        yield url


@pytest.fixture
def dualpath(monkeypatch, capfd):
    """dualpath(*arguments) -> exit code, stdout, stderr."""

    def dualpath(*arguments):
        monkeypatch.setattr(sys, "argv", ["dualpath", "compare", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, *capfd.readouterr()

    return dualpath


@pytest.fixture
def refused(dualpath, url, tmp_path):
    """refused(*arguments) -> the sentence, after exit code 2 with nothing on stdout and no report."""

    def refused(*arguments, to=url):
        code, out, err = dualpath(*arguments, "--url", to, "--report", tmp_path / "report")
        assert (code, out) == (2, ""), err
        assert not (tmp_path / "report").exists()
        [line] = err.splitlines()
        assert line.startswith("dualpath: ")
        return line.removeprefix("dualpath: ").replace(f"{tmp_path}/", "")

    return refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nope"], "nope: expected a model that is ready, got one that is not. It serves ensemble_all, "),
        (["orchestrator:x"], "model: expected NAME or NAME:VERSION, got 'orchestrator:x'."),
        (["ensemble_all", "wide"], "BERT_WEIGHT: expected an input of the same type and shape in both, got TYPE_FP32 "),
        (
            ["ensemble_all", "unweighted"],
            "ensemble_all, unweighted: expected the same inputs, got excerpt, BERT_WEIGHT of ensemble_all ",
        ),
        (
            ["ensemble_all", "other_output"],
            "ensemble_all, other_output: expected an output in common, got SCORE of ensemble_all and",
        ),
        (
            ["unweighted", "unweighted"],
            "--input: expected a file with X, got the built-in excerpts, which have excerpt only.",
        ),
        (["unweighted", "unweighted", "--mix", "0:1"], "--mix: expected models with an input BERT_WEIGHT, got X."),
        (["--mix", "0:0.5,1:0.6"], "--mix: expected shares that add up to 1, got 1.1."),
        (["--mix", "7"], "--mix: expected WEIGHT:SHARE,…, got '7' in it. Write it like 0:0.5,0.7:0.5."),
        (["--rate", "-1"], "--rate: expected numbers above 0, got '-1'. Give some such as 1,4,16."),
        (["--rate", "5,fast"], "--rate: expected numbers above 0, got 'fast'. Give some such as 1,4,16."),
        (["--rate", "inf"], "--rate: expected numbers above 0, got 'inf'. Give some such as 1,4,16."),
        (["--rate", ""], "--rate: expected numbers above 0, got ''. Give some such as 1,4,16."),
        (["--concurrency", "0"], "--concurrency: expected whole numbers above 0, got '0'. Give some such as 1,4,16."),
        (
            ["--concurrency", "1,2.5"],
            "--concurrency: expected whole numbers above 0, got '2.5'. Give some such as 1,4,16.",
        ),
        (["--batch", "1,-8"], "--batch: expected whole numbers above 0, got '-8'. Give some such as 1,4,16."),
        (["--batch", ""], "--batch: expected whole numbers above 0, got ''. Give some such as 1,4,16."),
        (["--batch", "1024"], "--batch: expected at most the models' 512 rows, got 1024. Give less."),
        (["--duration", "0"], "--duration: expected a number of seconds above 0, got 0."),
        (["--duration", "nan"], "--duration: expected a number of seconds above 0, got nan."),
        (["--timeout", "-1"], "--timeout: expected a number of seconds above 0, got -1."),
        (["--atol", "-1"], "--atol: expected a number of 0 or more, got -1."),
        (["--atol", "nan"], "--atol: expected a number of 0 or more, got nan."),
        (["--seed", "-1"], "--seed: expected a number of 0 or more, got -1."),
        (["--input", "missing.csv"], "--input: expected a file, got 'missing.csv': No such file or directory."),
        (["--input", "in.txt"], "--input: expected a file, got 'in.txt': No such file or directory."),
    ],
)
def test_wrong_use_is_refused_in_a_sentence(refused, arguments, message):
    assert refused(*arguments).startswith(message)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("in.csv", "", "in.csv: expected a CSV with a header and rows, got an empty file."),
        ("in.csv", "excerpt\n", "in.csv: expected at least one row, got none."),
        ("in.csv", "text\na\n", "in.csv:2: expected a value for excerpt, got values for 'text'. Add it."),
        (
            "in.csv",
            "excerpt,BERT_WEIGHT\na,3\n",
            "in.csv:2: BERT_WEIGHT: expected a number from 0 to 1, got 3. Correct it.",
        ),
        ("in.json", "", "in.json:1: expected JSON, got: Expecting value at column 1."),
        ("in.json", '{"data": [{"excerpt": 1}]}', "in.json: data[0]: excerpt: expected a list of values, got 1."),
    ],
)
def test_bad_files_are_refused_in_a_sentence(refused, tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    assert refused("--input", tmp_path / name).startswith(message)


def test_a_row_that_both_models_refuse_is_refused_with_its_line(refused, tmp_path):
    (tmp_path / "in.csv").write_text("excerpt\ngood\nbad luck\n")
    message = refused("picky", "picky", "--input", tmp_path / "in.csv")
    assert message == "in.csv:3: expected a valid row, got: excerpt[0]: expected good luck. Leave it out."


def test_an_unreachable_server_is_refused(refused):
    assert refused(to="127.0.0.1:1").startswith("--url: expected a Triton server at 127.0.0.1:1 (gRPC), got: ")
    assert refused(to="ftp://localhost:8001").startswith("--url: expected HOST:PORT of a Triton server's gRPC")


def test_a_server_that_does_not_name_itself_is_refused(refused):
    with served(PAIR) as (url, servicer):
        servicer.unimplemented.add("ServerMetadata")
        message = refused(to=url)
    expected = (
        f"--url: expected a server at {url} that names itself, got: ServerMetadata is not allowed. Look at its log."
    )
    assert message == expected


def test_without_a_server_the_model_has_to_be_in_the_repository(dualpath, tmp_path):
    code, out, err = dualpath("nope", "--model-repository", tmp_path)
    assert (code, out) == (2, "")
    assert err.startswith(f"dualpath: {tmp_path}: expected ")
    (tmp_path / "ensemble_all").mkdir()
    (tmp_path / "ensemble_all" / "config.pbtxt").touch()
    code, _, err = dualpath("ensemble_all", "nope", "--model-repository", tmp_path)
    assert code == 2
    assert err == f"dualpath: nope: expected a model of {tmp_path}, got one that it lacks. It has ensemble_all.\n"


def test_two_models_are_compared(dualpath, url):
    code, out, err = dualpath("--url", url, *QUICK, "--rate", "50", "--json")
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert result["contenders"] == ["ensemble_all", "orchestrator"]
    [parity] = result["parity"]
    assert (parity["output"], parity["n_rows"], parity["n_equal"], parity["atol"]) == ("SCORE", 8, 8, 2e-5)
    closed, open_ = result["cells"]
    assert closed["load"] == {"batch": 1, "concurrency": 2, "rate": None}
    assert open_["load"] == {"batch": 1, "concurrency": None, "rate": 50}
    for cell in (closed, open_):
        for measured in cell["measured"].values():
            assert measured["n_requests"] > 0
            assert measured["n_errors"] == measured["n_timeouts"] == 0
            assert measured["latencies_ms"]["50"] <= measured["latencies_ms"]["99"]
        assert cell["compared"]["orchestrator"]["throughput"]["low"] > 0
    assert "Left out, as only orchestrator has it: ROUTE." in result["notes"]
    assert "BERT_WEIGHT is 0.5 in the rows that have none, 8 of 8." in result["notes"]
    assert result["environment"]["tolerance"] == "SCORE 2e-05"
    assert UNKNOWN_PRECISION in result["notes"]
    assert result["environment"]["inputs"] == "8 rows: built-in excerpts"
    assert result["command"].startswith("dualpath compare --url 127.0.0.1:")
    assert "SCORE: equal to the last bit in 8 rows." in result["verdict"]


def test_tables_show_each_load_and_a_mix_by_weight(dualpath, url, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = dualpath("--url", url, *QUICK, "--mix", "0:0.5,0.7:0.5")
    assert code == 0
    assert "2 clients, 1 row" in out
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if "│" in line]
    names = [cells[0] for cells in lines if cells[0]]  # below a ratio may stand a doubt
    assert names == ["SCORE", *[it for name in PAIR for it in (name, "BERT_WEIGHT 0", "BERT_WEIGHT 0.7")]]
    assert (lines[0][1], lines[0][3]) == ("16", "16")  # rows, and rows that are equal to the last bit


def test_models_that_do_not_agree_end_with_1_and_the_worst_row_is_named(dualpath, url):
    code, out, _ = dualpath("ensemble_all", "wrong", "--url", url, *QUICK, "--json")
    assert code == 1
    result = json.loads(out)
    assert result["failed"]
    assert result["parity"][0]["largest"] == 1
    assert "answers not within 128 ulp. First look at built-in excerpt '" in result["verdict"]
    assert result["parity"][0]["beyond"]["alone"] == 8
    code, out, _ = dualpath("ensemble_all", "wrong", "--url", url, *QUICK, "--atol", "1", "--json")
    result = json.loads(out)
    assert (code, result["environment"]["tolerance"]) == (0, "SCORE 1")
    assert UNKNOWN_PRECISION not in result["notes"]


def test_a_thousandth_in_one_row_of_512_ends_with_1_and_its_line(dualpath, url, tmp_path):
    texts = ["x" * (number % 299 + 1) for number in range(512)]
    texts[300] = "x" * 300
    (tmp_path / "in.csv").write_text("\n".join(["excerpt", *texts]))
    options = ("--url", url, "--input", tmp_path / "in.csv", "--atol", "2e-5", *QUICK)
    code, out, _ = dualpath("ensemble_all", "off_by_a_thousandth", *options)
    assert code == 1
    said = "".join(out.split())  # a long path is broken
    assert "SCORE:alone" in said
    assert f"Firstlookat{tmp_path}/in.csv:302:150.0and150.00" in said


def test_an_answer_that_is_no_number_is_named_in_json_and_in_lines_below_the_table(dualpath, url):
    code, out, _ = dualpath("ensemble_all", "not_a_number", "--url", url, *QUICK, "--json")
    assert code == 1
    [parity] = json.loads(out)["parity"]
    assert parity["largest"] is None
    assert [(row["other"], row["difference"]) for row in parity["worst"]] == [("nan", "nan")] * 5
    baseline = parity["worst"][0]["baseline"]
    assert baseline > 0
    code, out, _ = dualpath("ensemble_all", "not_a_number", "--url", url, *QUICK)
    lines = [line for line in out.splitlines() if line.startswith("  SCORE: ")]
    assert len(lines) == 5
    assert f"  SCORE: {parity['worst'][0]['where']}: {baseline} and nan (nan apart)" in lines


def test_an_optional_input_that_no_row_has_is_left_out(dualpath, url, tmp_path):
    for content in (["X"], ["X", "Y"]):
        data = {"data": [{name: [1.5] for name in content}]}
        (tmp_path / "in.json").write_text(json.dumps(data))
        code, out, _ = dualpath("optional", "optional", "--url", url, "--input", tmp_path / "in.json", *QUICK, "--json")
        assert code == 0
        note = "Left out, as no row has a value for it: the optional input Y."
        assert (note in json.loads(out)["notes"]) == (content == ["X"])


def test_every_connection_to_the_server_is_closed(dualpath, url, monkeypatch):
    opened, closed = [], []

    class Noted(grpcclient.InferenceServerClient):
        def __init__(self, url, **options):
            super().__init__(url, **options)
            opened.append(self)

        def close(self):
            super().close()
            closed.append(self)

    monkeypatch.setattr(grpcclient, "InferenceServerClient", Noted)
    assert dualpath("--url", url, *QUICK)[0] == 0
    assert len(opened) == 3  # to ask, to record, to trace
    assert {*opened} <= {*closed}
    assert dualpath("nope", "--url", url)[0] == 2
    assert {*opened} <= {*closed}


def test_a_model_may_be_compared_with_itself(dualpath, url):
    code, out, _ = dualpath("orchestrator", "orchestrator", "--url", url, *QUICK, "--json")
    assert code == 0
    result = json.loads(out)
    assert result["contenders"] == ["orchestrator", "orchestrator (again)"]
    assert [parity["output"] for parity in result["parity"]] == ["SCORE", "ROUTE"]


def test_any_models_are_compared_and_take_batches_as_far_as_they_allow(dualpath, url, tmp_path):
    (tmp_path / "in.json").write_text('{"data": [{"X": [1]}, {"X": [2.5]}, {"X": [1e30]}]}')
    arguments = ("unweighted", "unweighted", "--url", url, "--input", tmp_path / "in.json")
    code, out, _ = dualpath(*arguments, "--duration", "0.3", "--concurrency", "1", "--json")
    assert code == 0
    result = json.loads(out)
    assert [cell["load"]["batch"] for cell in result["cells"]] == [1, 4]  # of 1, 8 and 64
    code, _, err = dualpath(*arguments, "--batch", "8")
    assert (code, err) == (2, "dualpath: --batch: expected at most the models' 4 rows, got 8. Give less.\n")


def test_what_takes_too_long_is_counted_as_timed_out(dualpath, url):
    code, out, _ = dualpath("ensemble_all", "slow", "--url", url, *QUICK, "--timeout", "0.2", "--json")
    result = json.loads(out)
    assert code == 1  # no input was answered in time
    assert (
        "slow failed on 5 of 8 inputs, first on built-in excerpt 'Nursery rhyme': no answer in time" in result["notes"]
    )
    assert result["cells"][0]["not_measured"] == {"slow": "no answer within the timeout of 0.2 s"}


def test_headers_go_with_every_request(dualpath):
    with served(PAIR) as (url, servicer):
        code, _, _ = dualpath("--url", url, *QUICK, "--header", "Authorization: Bearer x", "--header", "tenant:a")
    assert code == 0
    for call in ("ModelReady", "ModelInfer"):
        assert servicer.headers[call].items() >= {"authorization": "Bearer x", "tenant": "a"}.items()


def test_a_saved_result_is_shown_again_and_set_against_a_later_one(dualpath, url, tmp_path):
    code, out, _ = dualpath("--url", url, *QUICK, "--json", "--duration", "1")
    path = tmp_path / "result.json"
    path.write_text(out)
    code, again, _ = dualpath("--from", path, "--json")
    assert (code, json.loads(again)) == (0, json.loads(out))
    code, shown, _ = dualpath("--from", path, "--from", path)
    assert "orchestrator, 2 clients, 1 row, throughput ratio: " in " ".join(shown.split())
    assert "no change that shows" in " ".join(shown.split())
    assert dualpath("--from", path, "--max-p50-ratio", "1e-9")[0] == 1
    path.write_text("{}")
    code, _, err = dualpath("--from", path)
    assert (code, err.startswith(f"dualpath: {path}: expected a result that --json printed, got ")) == (2, True)


def test_a_summary_is_appended_for_a_pull_request(dualpath, url, tmp_path):
    path = tmp_path / "summary.md"
    path.write_text("# Before\n")
    assert (
        dualpath("ensemble_all", "wrong", "--url", url, *QUICK, "--gate", "--max-p50-ratio", "1e9", "--summary", path)[
            0
        ]
        == 1
    )
    text = path.read_text()
    assert text.startswith("# Before\n## ❌ ensemble_all and wrong\n\nSCORE: alone, ")
    assert "| p50 ratio at most 1e+09 | 2 clients, 1 row |" in text
    assert "| SCORE | built-in excerpt" in text
