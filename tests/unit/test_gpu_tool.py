"""tools/gpu.py without its parts: what it says without a GPU, that it goes on after a failure, and what it writes."""

import importlib.util
import json
import subprocess
import sys

import pytest

from paths import ROOT

TOOL = ROOT / "tools" / "gpu.py"


@pytest.fixture(scope="module")
def gpu():
    spec = importlib.util.spec_from_file_location("gpu_tool", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_its_parts_are_those_that_are_there():
    code = f"""
import sys; sys.path[:0] = [{str(TOOL.parent)!r}]
import gpu, gpu_parts
assert list(gpu_parts.PARTS) == list(gpu.NAMES)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_a_gpu_it_says_one_sentence_and_ends_with_2(gpu, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(gpu.Path, "glob", lambda *_: iter(()))
    monkeypatch.setattr(gpu.Path, "exists", lambda _: False)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(tmp_path / "out")])
    assert gpu.main() == 2
    said = capsys.readouterr()
    assert (said.out, said.err) == (
        "",
        "make gpu: expected a GPU, got no /dev/nvidia0. Try the script with `make gpu REHEARSE=1`.\n",
    )


def test_a_part_that_is_none_is_refused(gpu, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--only", "machine,speed"])
    with pytest.raises(SystemExit) as ended:
        gpu.main()
    assert ended.value.code == 2
    assert "--only: expected parts of machine, tests, parity" in capsys.readouterr().err


def test_it_goes_on_after_a_part_that_fails_and_writes_both_files(gpu, monkeypatch, tmp_path, capsys):
    ends = {
        "parity": {"status": "failed", "why": "float16: 1 apart", "rows": [{"precision": "float16", "apart": 1.0}]},
        "memory": {"status": "ok", "why": "", "rows": [{"requests": 10, "GPU MB": None}]},
    }
    monkeypatch.setattr(
        gpu, "in_own_process", lambda name, out: {"facts": {}, "wrong": [], "elapsed_s": 1.5} | ends[name]
    )
    monkeypatch.setattr(
        sys, "argv", ["gpu.py", "--rehearse", "--only", "parity,memory", "--out", str(tmp_path / "out")]
    )
    assert gpu.main() == 1
    assert "parity ... failed, 2 s: float16: 1 apart\nmemory ... ok, 2 s\n" in capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert {name: part["status"] for name, part in report["parts"].items()} == {"parity": "failed", "memory": "ok"}
    page = (tmp_path / "out" / "gpu.md").read_text()
    assert "**A rehearsal without a GPU: torch's CPU played it. No figure here is a GPU's.**" in page
    assert "| parity | failed | 1.5 | float16: 1 apart |" in page
    assert "| requests | GPU MB |\n| --- | --- |\n| 10 |  |" in page


def test_a_part_that_dies_is_a_failure_that_names_its_log(gpu, monkeypatch, tmp_path):
    script = tmp_path / "gpu.py"
    script.write_text("import os; print('what it said', flush=True); os._exit(139)")
    monkeypatch.setattr(gpu, "__file__", str(script))
    part = gpu.in_own_process("memory", tmp_path)
    assert (part["status"], part["why"]) == ("failed", f"ended with exit code 139, see {tmp_path / 'memory.log'}")
    assert (tmp_path / "memory.log").read_text() == "what it said\n"


def test_a_part_that_hangs_is_ended(gpu, monkeypatch, tmp_path):
    script = tmp_path / "gpu.py"
    script.write_text("import time; time.sleep(600)")
    monkeypatch.setattr(gpu, "__file__", str(script))
    monkeypatch.setattr(gpu, "PART_TIMEOUT_S", 0.2)
    assert gpu.in_own_process("memory", tmp_path)["why"] == "took over 0.2 s"


def test_what_is_served_is_compared_with_the_same_model_in_process_at_the_largest_batch(gpu):
    def row(batch, rate, precision="float16", **more):
        return {"shape": "minilm", "precision": precision, "batch": batch, "rows/s": rate, **more}

    parts = {
        "in-process": {
            "rows": [row(1, 100.0), row(512, 1000.0), row(512, 400.0, "float32"), {**row(512, 0), "rows/s": None}]
        },
        "speed-minilm": {"rows": [row(1, 10.0, **{"set-up": "a"}), row(512, 950.0, **{"set-up": "a"})]},
        "speed-bert-large": {"rows": [row(512, 200.0, "float32", **{"set-up": "b"})]},
    }
    found = gpu.bounds(parts)
    assert [(it["set-up"], it["of the rows/s in process"], it["enough"]) for it in found] == [
        ("a", 0.95, True),
        ("b", 0.5, False),
    ]
    assert gpu.bounds({}) == []
