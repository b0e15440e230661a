"""Random pipelines of up to eight children: each request is answered exactly once, with its own rows, come what may."""

import asyncio
import os
import time

import fake_triton
import numpy as np
from bls_driver import answer_to, asking, serving
from hypothesis import given, settings
from hypothesis import strategies as st

from dualpath.bls import BatchedChild, Child, Retry, pipeline, route, together, tolerate

FATES = ("answers", "fails", "is unavailable", "fails at times", "is slow", "is misconfigured")
child = st.fixed_dictionaries(
    {
        "fate": st.sampled_from(FATES),
        "early_return": st.sampled_from([True, False, None]),
        "batched": st.booleans(),
        "in_flight": st.sampled_from([None, 1, 3]),
        "chunk_rows": st.sampled_from([None, 1, 4]),
        "retry": st.sampled_from([None, Retry(1, ("failed", "unavailable"), delay_s=0)]),
        "tolerated": st.booleans(),
        "modulus": st.integers(1, 3),
    }
)
request = st.fixed_dictionaries(
    {
        "n_rows": st.integers(1, 6),
        "fate": st.sampled_from(
            ("waits", "waits", "waits", "is cancelled", "has little time", "is bad", "is unreadable")
        ),
        "language": st.sampled_from(["de", "en"]),
    }
)


def behave(fate, number):
    calls = iter(range(10**6))

    def answer(inputs):
        turn = next(calls)
        if fate == "is slow":
            time.sleep(0.006)
        if fate == "fails" or (fate == "fails at times" and turn % 2):
            raise RuntimeError("broken")
        if fate == "is unavailable":
            raise RuntimeError(f"Request for unknown model: 'child{number}' is not found")
        if fate == "is misconfigured":
            return {"z": inputs["x"]}
        return {"y": inputs["x"][:, :1] * 2}

    return answer


def build(children):
    """Return a graph through all children, two at a time; a row goes to those whose modulus divides its value."""
    built = []
    for number, spec in enumerate(children):
        name = f"child{number}"
        fake_triton.CHILDREN[name] = behave(spec["fate"], number)
        options = {"early_return": spec["early_return"], "retry": spec["retry"], "forward_parameters": ("language",)}
        if spec["batched"]:
            it = BatchedChild(
                name,
                "y",
                lambda rows: {"x": np.stack(rows)},
                in_flight=spec["in_flight"],
                chunk_rows=spec["chunk_rows"],
                **options,
            )
            ask = it.rows
        else:
            it = Child(name, "y", **options)

            async def ask(rows, it=it):
                return await it.call({"x": np.stack(rows)})

        built.append((ask, spec))

    async def graph(request):
        rows = request.inputs["rows"]
        if (rows[:, 0] < 0).any():
            raise ValueError("a bad row")
        total = rows[:, :1].copy()
        for pair in (built[start : start + 2] for start in range(0, len(built), 2)):
            answers = await together(
                *(
                    tolerate(
                        route(list(rows), rows[:, 0] % spec["modulus"] == 0, ask, fill=np.zeros(1, np.int64)),
                        failed=spec["tolerated"],
                        unavailable=spec["tolerated"],
                        late=spec["tolerated"],
                    )
                    for ask, spec in pair
                )
            )
            for answer, missed in answers:
                total += 0 if missed else answer
        return {"y": total}

    return graph


def expected(values, children):
    """Return what each row may get: the answers of the children that it goes to, those left out that may be."""
    sums = []
    for value in values:
        certain, optional = value, 0
        for spec in children:
            if value % spec["modulus"] == 0:
                if spec["tolerated"]:
                    optional += 1
                else:
                    certain += 2 * value
        sums.append({certain + 2 * value * n for n in range(optional + 1)})
    return sums


@settings(max_examples=int(os.environ.get("DUALPATH_RANDOM_PIPELINES", 128)))
@given(
    st.lists(child, min_size=1, max_size=8), st.lists(st.lists(request, min_size=1, max_size=5), min_size=1, max_size=3)
)
def test_each_request_of_any_pipeline_is_answered_once_with_its_own_rows(children, batches):
    fake_triton.reset()
    numbers, asked = iter(range(1, 1000)), []
    with serving(build(children)) as server:
        for batch in batches:
            received = []
            for spec in batch:
                values = [next(numbers) for _ in range(spec["n_rows"])]
                if spec["fate"] == "is bad":
                    values[-1] = -values[-1]
                it = asking(
                    *values,
                    parameters={"language": spec["language"]},
                    timeout_us=3000 if spec["fate"] == "has little time" else 0,
                )
                it.is_cancelled_by_caller = spec["fate"] == "is cancelled"
                if spec["fate"] == "is unreadable":
                    it.inputs = lambda: 1 / 0
                received.append(it)
                asked.append((it, spec, values))
            server.execute(*received)
        for it, spec, values in asked:
            response = answer_to(it)
            if spec["fate"] in ("is bad", "is unreadable"):
                assert response.has_error()
            if not response.has_error():
                for value, sums in zip(response.arrays()["y"][:, 0].tolist(), expected(values, children), strict=True):
                    assert value in sums
            elif spec["fate"] == "waits":  # whatever went wrong elsewhere, only its own children may fail it
                asked_of = [c for c in children if any(value % c["modulus"] == 0 for value in values)]
                assert any(c["fate"] not in ("answers", "is slow") for c in asked_of), response.error().message()


def test_graphs_that_need_an_event_loop_get_one():
    async def graph(request):
        await asyncio.sleep(0.001)
        first, second = await asyncio.gather(asyncio.to_thread(lambda: 1), asyncio.sleep(0, 2))
        async with asyncio.timeout(5):
            return {"y": request.inputs["rows"][:, :1] * (first + second)}

    with serving(graph) as server:
        for _ in range(2):
            answers = server.ask(asking(1, 2), asking(3))
            assert [answer.arrays()["y"][:, 0].tolist() for answer in answers] == [[3, 6], [9]]
    assert pipeline.INLINE_ROWS > 3
