"""docs/bls-api.md follows the docstrings, and says something of every public name."""

import inspect
import re
import runpy

from dualpath import bls
from dualpath.bls import testing
from paths import ROOT

PAGE = (ROOT / "docs" / "bls-api.md").read_text()


def test_the_api_page_is_current():
    assert runpy.run_path(str(ROOT / "tools" / "bls_api.py"))["page"]() == PAGE, "run python tools/bls_api.py"


def test_every_public_name_and_method_has_a_docstring_on_the_page():
    titles = re.findall(r"^#{3,4} (.+)$", PAGE, re.MULTILINE)
    for module in (bls, testing):
        for name in module.__all__:
            entry = getattr(module, name)
            assert name in titles
            assert re.search(rf"^### {name}\n+(```python\n.*?```\n+)?\w", PAGE, re.MULTILINE | re.DOTALL), name
            members = vars(entry).items() if inspect.isclass(entry) else ()
            undocumented = [n for n, each in members if n[0] != "_" and inspect.isfunction(each) and not each.__doc__]
            assert not undocumented, f"{name}: {undocumented}"
