"""The README and docs/serving.md: their examples are run, other commands are checked, and what they name exists."""

import json
import re
import shlex
import subprocess
import sys
import urllib.request

import numpy as np
import pytest
import typer

from dualpath.cli import app
from dualpath.readability.contract import MODELS, ORCHESTRATOR, SCORERS
from paths import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
SERVING = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def blocks(language):
    """Return the fenced blocks of a language; "" if it has none."""
    fences = re.finditer(r"^```(\w*)\n(.*?)^```$", README + SERVING, re.DOTALL | re.MULTILINE)
    return [fence[2] for fence in fences if fence[1] == language]


def commands():
    """Return the commands of all bash blocks as words, comments left out; a quoted text may span lines."""
    found, pending = [], ""
    for line in "".join(blocks("bash")).splitlines():
        pending += line + "\n"
        try:
            words = shlex.split(pending, comments=True)
        except ValueError:  # a quotation still open
            continue
        pending = ""
        if words:
            found.append(words)
    assert not pending
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory, model_repository):
    """A folder to run the README in, with the model repository and an excerpts.csv."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "model_repository").symlink_to(model_repository)
    (folder / "excerpts.csv").write_text("id,excerpt\n1,The cat sat on the mat.\n2,The lessee shall indemnify.\n")
    return folder


@pytest.fixture
def run_dualpath(folder, server):
    """run_dualpath(words) -> stdout, of a `dualpath` command that needs a running server or none."""

    def run_dualpath(words):
        target = words[words.index(">") + 1] if ">" in words else None
        arguments = words[1 : words.index(">")] if target else words[1:]
        url = [] if words[1] == "doctor" else ["--url", server.grpc_url]
        done = subprocess.run(
            [sys.executable, "-c", "from dualpath.cli import main; main()", *arguments, *url],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert (done.returncode, done.stderr) == (0, "")
        if target:
            (folder / target).write_text(done.stdout)
        return done.stdout

    return run_dualpath


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_each_command_of_the_readme_holds(words, request):
    match words:
        case ["make", target]:
            assert_target(target)
        case [".", ".venv/bin/activate"]:
            assert "-m venv .venv" in MAKEFILE
        case ["dualpath", "build" | "serve" | "compare" | "bench" | "reload" as name, *options]:
            # Its server is this session's, its build `make test`'s; the others have tests of their own.
            typer.main.get_command(app).commands[name].make_context(name, options)
        case ["dualpath", "train", name, *options]:  # tests/unit/test_train_cli.py runs it
            typer.main.get_command(app).commands["train"].commands[name].make_context(name, options)
        case ["dualpath", "doctor"]:
            assert "all on the CPU: yes" in request.getfixturevalue("run_dualpath")(words)
        case ["dualpath", "models"]:
            shown = request.getfixturevalue("run_dualpath")(words)
            assert all(re.search(rf"│ {model.name} +│ 1 +│ ready", shown) for model in MODELS)
        case ["dualpath", "score", *arguments]:
            check_scores(arguments, request.getfixturevalue("run_dualpath")(words), request)
        case ["curl", "-s", url, "-d", body]:
            post(url, body, request)
        case _:
            pytest.fail(f"the README has a command that this test does not know: {shlex.join(words)}")


def assert_target(target):
    assert re.search(rf"^{target}:.*## ", MAKEFILE, re.MULTILINE), f"the Makefile has no target {target!r}"


def check_scores(arguments, shown, request):
    reference, tolerance = request.getfixturevalue("reference"), request.getfixturevalue("tolerance")

    def expected(texts, weight):
        return reference.score([text.encode() for text in texts], np.full(len(texts), weight, np.float32))

    if arguments[0] == "--file":
        assert arguments == ["--file", "excerpts.csv", "--bert-weight", "0.5", ">", "scored.csv"]
        lines = [line.split(",") for line in shown.splitlines()]
        texts, scores = [line[1] for line in lines[1:]], [float(line[2]) for line in lines[1:]]
        assert lines[0] == ["id", "excerpt", "score"]
        assert [line[0] for line in lines[1:]] == ["1", "2"]
        np.testing.assert_allclose(scores, expected(texts, 0.5), rtol=0, atol=tolerance + 1e-6)  # six decimals
        return
    texts = [word for word in arguments if " " in word]
    assert texts
    scores, excerpts = zip(*(line.split("\t") for line in shown.splitlines()), strict=True)
    assert list(excerpts) == texts
    np.testing.assert_allclose([*map(float, scores)], expected(texts, 0.7), rtol=0, atol=tolerance + 1e-4)  # four


def post(url, body, request):
    address = url.replace("localhost:8000", request.getfixturevalue("server").http_url)
    assert address != url
    with urllib.request.urlopen(f"http://{address}", data=body.encode(), timeout=60) as response:
        outputs = {output.pop("name"): output for output in json.load(response)["outputs"]}
    score = request.getfixturevalue("score")
    assert (outputs["SCORE"]["datatype"], outputs["SCORE"]["shape"]) == ("FP32", [1, 1])
    assert np.float32(outputs["SCORE"]["data"]) == score("orchestrator", ["The cat sat on the mat."], [0.7])


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_the_python_example_prints_both_models_scores(server, folder, score, tolerance, protocol):
    [code] = blocks("python")
    for old, new in {
        "tritonclient.grpc as triton": f"tritonclient.{protocol} as triton",
        "localhost:8001": server.grpc_url if protocol == "grpc" else server.http_url,
    }.items():
        assert old in code
        code = code.replace(old, new)
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    printed = dict(parse(done.stdout))
    assert list(printed) == [model.name for model in SCORERS]
    texts = ["The cat sat on the mat.", "The lessee shall indemnify the lessor."]
    for model, values in printed.items():
        np.testing.assert_allclose(values, score(model, texts, [0.7, 0.0]), rtol=0, atol=tolerance)
    np.testing.assert_allclose(printed["ensemble_all"], printed["orchestrator"], rtol=0, atol=tolerance)


def parse(shown):
    """Read lines such as `ensemble_all [-1.5 -2.25]`."""
    for line in shown.splitlines():
        model, _, values = line.partition(" ")
        yield model, [float(value) for value in values.strip("[]").split()]


def test_make_targets_and_options_in_the_text_exist():
    prose = re.sub(r"^```.*?^```", "", README + SERVING, flags=re.DOTALL | re.MULTILINE)
    inline = re.findall(r"`([^`\n]+)`", prose)
    targets = [match[1] for code in inline if (match := re.search(r"\bmake (\w+)$", code))]
    assert {"demo", "help", "lint"} <= set(targets)
    for target in targets:
        assert_target(target)
    commands = typer.main.get_command(app).commands
    for code in inline:
        if match := re.match(r"dualpath (\w+)$", code):
            assert match[1] in commands
    options = {option for command in commands.values() for parameter in command.params for option in parameter.opts}
    assert {option for code in inline for option in re.findall(r"--[a-z-]+", code)} <= options


def test_the_table_of_tensors_is_the_contract():
    table = re.findall(r"^\| `(\w+)` \| (in|out)\b.*? \| (\w+) \|", README, re.MULTILINE)
    tensors = [("in", tensor) for tensor in ORCHESTRATOR.inputs] + [("out", tensor) for tensor in ORCHESTRATOR.outputs]
    assert table == [(t.name, way, t.dtype.removeprefix("TYPE_").replace("STRING", "BYTES")) for way, t in tensors]


def test_the_tree_names_what_is_there():
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    [tree] = re.findall(r"^```\n(model_repository/ .*?)^```$", page, re.DOTALL | re.MULTILINE)
    parent = ""
    for line in tree.splitlines():
        indent, name = re.match(r"( *)(\S+)/(?: |$)", line).groups()
        parent = parent if indent else name
        assert (ROOT / parent / name if indent else ROOT / name).is_dir(), line


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))])
def test_links_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)", page.read_text(encoding="utf-8")):
        linked = page.parent / target if target else page
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}, (
                anchor
            )
