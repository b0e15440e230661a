"""The example of docs/from-ensemble-to-bls.md, made by the page's own words."""

import re
import subprocess

from dualpath.convert.scaffold import scaffold
from paths import ROOT

PAGE = ROOT / "docs" / "from-ensemble-to-bls.md"


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def write_example(folder):
    """Write the ensemble `tickets` and its two BLS models into `folder`/models."""
    [script] = blocks("bash")
    subprocess.run(["bash", "-e"], input=script, text=True, check=True, cwd=folder)
    scaffold(folder / "models" / "tickets")
    scaffold(folder / "models" / "tickets", out="tickets_fast")
    [diff] = blocks("diff")
    subprocess.run(["git", "apply", "-"], input=diff, text=True, check=True, cwd=folder)
