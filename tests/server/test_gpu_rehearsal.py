"""`make gpu` in its form without a GPU: BERT by the stand-in's code for a GPU under the real Triton, on torch's CPU.

The parts that start the most servers or send the most requests are left to `make prove`.
"""

import json
import subprocess
import sys

from paths import ROOT


def test_the_parts_run_with_torchs_cpu_in_the_gpus_place_and_write_both_files(model_repository, tmp_path):
    parts = ["parity", "copies", "speed-bert-large"]
    command = [sys.executable, ROOT / "tools" / "gpu.py", "--rehearse", "--only", ",".join(parts), "--out", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert {name: part["status"] for name, part in report["parts"].items()} == dict.fromkeys(parts, "ok") | {
        "speed-bert-large": "not run"
    }
    parity = report["parts"]["parity"]["rows"]
    assert {(row["model"], row["rows"]) for row in parity} == {
        (model, rows) for model in ("ensemble_all", "orchestrator") for rows in ("alone", "one batch")
    }
    assert max(row["largest difference"] for row in parity) < 1e-4
    assert all(row["number"] == 0 for row in report["parts"]["copies"]["rows"])
    page = (tmp_path / "gpu.md").read_text()
    assert "No figure here is a GPU's" in page
    assert all(f"## {part}\n" in page for part in parts)
