"""The code blocks of a page of docs/, as files and as models."""

import re
import textwrap

from paths import ROOT

PAGE = ROOT / "docs" / "bls.md"
SHADOW = ROOT / "docs" / "shadow.md"
_FRAME = """
import numpy as np

from dualpath import bls


class TritonPythonModel:
    def initialize(self, args):
        self.config = bls.ModelConfig(args)
        self.metrics = bls.Metrics(self.config.name)
{initialize}
        self.pipeline = bls.Pipeline(self.graph, self.config, metrics=self.metrics)

    def execute(self, requests):
        return self.pipeline.execute(requests)

    def finalize(self):
        self.pipeline.close()

{methods}
"""


def blocks(page=PAGE):
    """The blocks by the comment that they begin with."""
    found = re.findall(r"^```\w*\n# ([^\n]+)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return dict(found)


def write_example(folder, page=PAGE):
    """Write the page's pipeline with its config, and its test if it has one."""
    for path, text in blocks(page).items():
        if "/" in path or path.endswith(".py"):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)


def write_section(folder, name, decoupled=False):
    """Write the model that a section's lines are part of, with the example's config; return its folder."""
    lines = blocks()[f"initialize and graph: {name}"]
    initialize, methods = lines.split("\n\n\n", 1)
    text = _FRAME.format(
        initialize=textwrap.indent(initialize, " " * 8),
        methods=textwrap.indent(methods.replace("\n\n\n", "\n\n"), "    "),
    )
    model = folder / name
    (model / "1").mkdir(parents=True)
    (model / "1" / "model.py").write_text(text)
    config = blocks()["scene/config.pbtxt"]
    (model / "config.pbtxt").write_text(config + "model_transaction_policy { decoupled: true }\n" * decoupled)
    return model
