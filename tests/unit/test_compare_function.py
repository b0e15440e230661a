"""`compare` as a function, in a script and in a notebook, on models that this process serves."""

import asyncio
import signal

import pytest
from served_models import PAIR, served

from dualpath.compare import compare


@pytest.fixture(scope="module")
def url():
    with served(PAIR) as (url, _):
        yield url


def test_compare_is_a_function_that_neither_prints_nor_exits(url, capfd):
    said, at_the_end = [], []
    result = compare(
        *PAIR,
        url=url,
        concurrency=[2],
        batch=[1],
        duration_s=0.3,
        on_progress=lambda *it: said.append(it),
        on_result=at_the_end.append,
    )
    assert at_the_end == [result]
    assert capfd.readouterr() == ("", "")
    assert not result.failed
    assert said[0] == ("Comparing answers: 1 of 8", 0)
    assert said[-1][1] == 1
    baseline, other = result.table()
    assert (baseline["load"], baseline["contender"]) == ("2 clients, 1 row", "ensemble_all")
    assert other["throughput_x_low"] <= other["throughput_x"] <= other["throughput_x_high"]
    assert result.to_dict()["contenders"] == [*PAIR]
    assert f"<td>{other['rows_per_s']:.4g}</td>" in result._repr_html_()


def test_compare_runs_within_a_notebook_s_loop_and_ctrl_c_leaves_what_was_found(url):
    async def cell(**options):
        return compare(*PAIR, url=url, concurrency=[1], batch=[1], duration_s=0.3, **options)

    assert asyncio.run(cell()).cells[0].measured.keys() == PAIR.keys()

    def ctrl_c(text, fraction):
        if "1 client" in text:
            signal.raise_signal(signal.SIGINT)

    def interrupt(*_):  # a notebook's: asyncio would take the default one for its own
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        result = asyncio.run(cell(on_progress=ctrl_c))
    finally:
        signal.signal(signal.SIGINT, before)
    assert result.interrupted
    assert result.parity[0].n_rows == 8
