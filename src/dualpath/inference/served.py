"""What a server's stand-ins compute with, from its metrics: a Triton model cannot be asked about itself."""

import re
import urllib.request

METRIC = "stand_in_engine"
"""A gauge of 1 with the labels model, version and engine."""
_TIMEOUT_S = 2.0

_LINE = re.compile(rf"^{METRIC}\{{(.*)\}} 1$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')


def engines(metrics_url: str) -> dict[str, str]:
    """Return the engine of each model that a stand-in serves, by `model:version`; empty if nothing answers there."""
    try:
        return parse(read(metrics_url, _TIMEOUT_S))
    except (OSError, ValueError):
        return {}


def read(url: str, timeout_s: float) -> str:
    """Return the text at an address of a server, which is reached directly, whatever proxy the environment names."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=timeout_s) as answer:
        return str(answer.read().decode())


def parse(text: str) -> dict[str, str]:
    """Parse the text of Triton's metrics.

    'stand_in_engine{engine="torch 2.13.0",model="m",version="1"} 1' -> {"m:1": "torch 2.13.0"}
    """
    found = [dict(_LABEL.findall(line[1])) for line in _LINE.finditer(text)]
    return {f"{labels['model']}:{labels['version']}": labels["engine"] for labels in found}
