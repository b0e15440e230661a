"""In which thread a graph's calls are made while `execute` waits for them, and on which GPU."""

import asyncio
import sys
import threading
import time
from contextvars import copy_context
from types import SimpleNamespace

import fake_triton
import pytest
from bls_driver import PATIENCE_S, answer_to, answered_values, asking, error_of, merging, rows_of, serving

from dualpath.bls import Child, together
from dualpath.bls.inline import Inline
from dualpath.bls.loop_thread import LoopThread
from dualpath.bls.run import Leave, blocking, fork


@pytest.fixture
def threads():
    """The thread in which each of the children "first" and "second" was called, by name; both answer their rows."""
    called_in = {}

    def child(name):
        def answer(inputs):
            called_in[name] = threading.current_thread()
            return {"y": inputs["x"][:, :1].astype("float32")}

        return answer

    fake_triton.CHILDREN.update({name: child(name) for name in ("first", "second")})
    return called_in


def test_the_first_call_is_made_by_execute_itself_and_the_next_one_prepared_meanwhile(gated, threads):
    first, second = (Child(name, "y", early_return=False) for name in ("child", "second"))
    prepared_in = []

    async def prepared(inputs):
        call = gated.next_call()  # the first one is under way
        prepared_in.append(threading.current_thread())
        call.let_through()
        return await second.call(inputs)

    async def graph(request):
        prepared_in.append(threading.current_thread())
        inputs = {"x": request.inputs["rows"]}
        one, other = await together(first.call(inputs), prepared(inputs))
        return {"y": one + other}

    with serving(graph) as server:
        request = asking(5)
        server.execute(request).result(PATIENCE_S)
        assert answered_values(answer_to(request)) == [10]
    execute, helper = prepared_in
    assert helper is threads["second"]
    assert helper is not execute


def test_a_lone_call_needs_no_second_thread(threads):
    first = merging("first", early_return=False)
    seen = []

    async def graph(request):
        seen.append(threading.current_thread())
        return {"y": await first.rows(rows_of(request))}

    with serving(graph) as server:
        server.ask(asking(5))
    assert seen == [threads["first"]]


@pytest.mark.parametrize("what", [ValueError("not prepared"), SystemExit(3)])
def test_what_goes_wrong_in_the_second_thread_is_answered_to_the_caller(gated, what):
    first = Child("child", "y", early_return=False)

    async def wrong():
        gated.next_call().let_through()
        raise what

    async def graph(request):
        return {"y": (await together(first.call({"x": request.inputs["rows"]}), wrong()))[0]}

    with serving(graph) as server:
        request = asking(5)
        server.execute(request)
        assert type(what).__name__ in error_of(answer_to(request))[1]


def test_an_error_of_a_later_branch_is_answered_once_the_first_call_has_come_back(gated):
    first, ended = Child("child", "y", early_return=False), threading.Event()

    async def wrong():
        ended.set()
        raise ValueError("not prepared")

    async def graph(request):
        return {"y": (await together(first.call({"x": request.inputs["rows"]}), wrong()))[0]}

    with serving(graph) as server:
        request = asking(5)
        server.execute(request)
        call = gated.next_call()
        assert ended.wait(PATIENCE_S)
        assert not request.answered.is_set()
        call.let_through()
        assert "not prepared" in error_of(answer_to(request))[1]


def driven(*branches, deadline=None, inline=None):
    """Drive a graph of these branches."""

    async def graph():
        return await fork(branches)

    return (inline or Inline()).drive(graph(), copy_context(), deadline)


def test_a_thread_that_cannot_be_started_is_an_error_of_the_graph(monkeypatch):
    def full(work):
        raise RuntimeError("can't start new thread")

    inline = Inline()
    monkeypatch.setattr(inline, "_start", full)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        driven(blocking(lambda: 1), blocking(lambda: 2), inline=inline)


def test_a_branch_that_leaves_says_who_leaves_also_if_the_deadline_passes_meanwhile():
    may_end = threading.Event()

    async def leaving():
        raise Leave([1], apart=True)

    try:
        with pytest.raises(Leave) as left:
            driven(blocking(may_end.wait), leaving(), deadline=time.monotonic() + 0.05)
    finally:
        may_end.set()
    assert left.value.owners == {1}
    assert left.value.apart


def test_a_graph_that_needs_an_event_loop_while_it_is_closed_changes_no_result():
    async def wrong():
        raise ValueError("not prepared")

    async def cleaning():
        try:
            await blocking(may_end.wait)
        finally:
            await asyncio.sleep(0)

    may_end = threading.Event()
    threading.Timer(0.05, may_end.set).start()
    with pytest.raises(ValueError, match="not prepared"):
        driven(cleaning(), wrong())
    with pytest.raises(RuntimeError, match="no running event loop"):
        asyncio.get_running_loop()


def test_threads_use_the_gpu_of_the_instance(monkeypatch):
    used = []

    def device(number):
        return SimpleNamespace(use=lambda: used.append((threading.current_thread().name, number)))

    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=SimpleNamespace(Device=device)))
    inline, loop, done = Inline(gpu=1), LoopThread(1, gpu=1), threading.Event()
    assert (threading.current_thread().name, 1) in used
    inline._start(done.set)
    assert done.wait(PATIENCE_S)
    ran = threading.Event()
    loop.start([(asyncio.to_thread(ran.set), copy_context())])
    assert ran.wait(PATIENCE_S)
    inline.close()
    loop.close()
    assert sorted(used[1:]) == [("child", 1), ("child_0", 1), ("loop", 1)]


def test_work_is_done_in_a_thread_that_cannot_use_the_gpu(monkeypatch):
    """Instead of being lost, which its caller would wait for."""
    owner = threading.get_ident()

    def use():
        if threading.get_ident() != owner:
            raise RuntimeError("no memory on the GPU")

    device = SimpleNamespace(use=use)
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=SimpleNamespace(Device=lambda number: device)))
    inline, loop, done, slept = Inline(gpu=1), LoopThread(1, gpu=1), threading.Event(), threading.Event()

    async def sleeping():
        await asyncio.sleep(0)
        slept.set()

    inline._start(done.set)
    loop.start([(sleeping(), copy_context())])
    assert done.wait(PATIENCE_S)
    assert slept.wait(PATIENCE_S)
    inline.close()
    loop.close()
