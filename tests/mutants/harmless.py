"""Variants that answer the same: other ways to compute it, and differences that no user means."""

import random
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from pipeline import OUTPUTS, TO_EMBEDDING, answer, softmax
from variants import Config, Variants, cut, right, stack

HARMLESS = Variants()
execution, request = HARMLESS.execution, HARMLESS.request
BACKWARDS = dict(reversed(OUTPUTS.items()))


def join(parts):
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def take(given, rows):
    return {name: array[rows] for name, array in given.items()}


# Config

HARMLESS.only_config("the_same")
HARMLESS.only_config("two_instances", instances=2)
HARMLESS.only_config("outputs_in_another_order_in_the_config", outputs=BACKWARDS)
HARMLESS.only_config("inputs_in_another_order_in_the_config", inputs_reversed=True)
HARMLESS.only_config("larger_max_batch_size", max_batch_size=64)
HARMLESS.only_config("no_dynamic_batching", batching="")
HARMLESS.only_config("longer_queue_delay", batching="max_queue_delay_microseconds: 4000")
HARMLESS.only_config("preferred_batch_sizes", batching="preferred_batch_size: [4, 8]")
HARMLESS.only_config("order_preserved", batching="preserve_ordering: true")
HARMLESS.only_config("other_parameters", parameters={"threshold": "0.5", "device": "cpu"})
HARMLESS.only_config("another_version_number", version=3)
HARMLESS.only_config("response_cache_refused", more="response_cache { enable: false }")


@request(Config(outputs={**OUTPUTS, "DEBUG": ("FP32", [2])}))
def output_that_the_baseline_lacks(given, found, state):
    found["DEBUG"] = np.ones((len(found["EMB"]), 2), np.float32)


# Numbers


@request()
def noise_below_the_tolerance(given, found, state):
    found["EMB"] += np.random.default_rng().uniform(-2e-5, 2e-5, found["EMB"].shape).astype(np.float32)


@request()
def probabilities_a_millionth_off(given, found, state):
    found["PROBS"] += np.float32(1e-6)


@request()
def fp16_one_step_off(given, found, state):
    found["HALF"] = np.nextafter(found["HALF"], np.float16(100))


@execution()
def computed_in_float64(batches, state):
    return cut(answer(stack(batches), np.float64), batches)


@request()
def summed_in_another_order(given, found, state):
    image = (given["IMAGE"] * given["GAIN"][:, :, None, None] * (given["MASK"] > 0)[:, None]).reshape(-1, 192)
    found["EMB"][:, :14] = (image[:, ::-1] @ TO_EMBEDDING[::-1])[:, :14]


@request()
def softmax_by_logarithms(given, found, state):
    found["PROBS"] = softmax(np.log(found["PROBS"]) + np.float32(3))


@request()
def zero_for_minus_zero(given, found, state):
    """IEEE 754 and every user call them equal."""
    found["EMB"] += np.float32(0)


@request()
def another_nan(given, found, state):
    found["EMB"].view(np.uint32)[np.isnan(found["EMB"])] = 0xFFC00123


@request()
def subnormal_for_zero(given, found, state):
    found["EMB"][found["EMB"] == 0] = np.float32(1e-42)


@request()
def bool_of_an_int(given, found, state):
    found["VALID"] = (given["MASK"].sum((1, 2), dtype=np.int64) != 0)[:, None]


@request()
def text_as_str(given, found, state):
    found["LABEL"] = np.vectorize(bytes.decode, otypes=[np.object_])(found["LABEL"])


# Batches


@execution()
def one_row_at_a_time(batches, state):
    given = stack(batches)
    return cut(join([answer(take(given, [i])) for i in range(len(given["IMAGE"]))]), batches)


@execution()
def three_rows_at_a_time(batches, state):
    given = stack(batches)
    return cut(join([answer(take(given, slice(i, i + 3))) for i in range(0, len(given["IMAGE"]), 3)]), batches)


@execution()
def one_request_at_a_time(batches, state):
    return [answer(stack([batch])) for batch in batches]


@execution()
def requests_from_the_last_to_the_first(batches, state):
    return [right([batch])[0] for batch in reversed(batches)][::-1]


@execution()
def requests_in_threads(batches, state):
    pool = state.kept.setdefault("pool", ThreadPoolExecutor(4))
    return list(pool.map(lambda batch: answer(stack([batch])), batches))


@execution()
def padded_to_the_full_batch_and_cut(batches, state):
    given = stack(batches)
    missing = max(16 - len(given["IMAGE"]), 0)
    padded = {
        name: np.concatenate([array, np.zeros((missing, *array.shape[1:]), array.dtype)])
        for name, array in given.items()
    }
    return cut(answer(padded), batches)


@execution()
def rows_permuted_and_restored(batches, state):
    given = stack(batches)
    order = np.random.default_rng().permutation(len(given["IMAGE"]))
    return cut(take(answer(take(given, order)), np.argsort(order)), batches)


@execution()
def rows_sorted_and_restored(batches, state):
    given = stack(batches)
    order = np.argsort(given["MASK"].sum((1, 2)), kind="stable")
    return cut(take(answer(take(given, order)), np.argsort(order)), batches)


@execution()
def equal_rows_computed_once(batches, state):
    given = stack(batches)
    keys = [b"".join(array[i].tobytes() for array in given.values()) for i in range(len(given["IMAGE"]))]
    first = {key: i for i, key in reversed(list(enumerate(keys)))}
    kept = sorted(first.values())
    place = {i: at for at, i in enumerate(kept)}
    return cut(take(answer(take(given, kept)), [place[first[key]] for key in keys]), batches)


@request()
def cache_of_the_whole_row(given, found, state):
    for i in range(len(given["IMAGE"])):
        key = b"".join(given[name][i].tobytes() for name in ("IMAGE", "MASK", "GAIN"))
        found["EMB"][i] = state.kept.setdefault(key, found["EMB"][i].copy())


# Memory, time and the way of the answer


@request()
def outputs_in_another_order(given, found, state):
    return dict(reversed(found.items()))


@request()
def outputs_not_contiguous(given, found, state):
    return {name: np.repeat(array, 2, axis=0)[::2] for name, array in found.items()}


@execution()
def inputs_copied(batches, state):
    return right([{name: array.copy() for name, array in batch.items()} for batch in batches])


@execution()
def buffer_used_again_and_overwritten(batches, state):
    outputs = answer(stack(batches))
    buffer = state.kept.setdefault("EMB", np.empty((256, 16), np.float32))
    n_rows = len(outputs["EMB"])
    buffer[:n_rows] = outputs["EMB"]
    outputs["EMB"] = buffer[:n_rows]
    return cut(outputs, batches)


@execution(sends=True)
def answers_by_a_response_sender(batches, state):
    return right(batches)


@execution()
def slower(batches, state):
    time.sleep(0.004)
    return right(batches)


@execution()
def now_and_then_slow(batches, state):
    time.sleep(0.03 if state.n_executions % 50 == 0 else 0)
    return right(batches)


@execution()
def slow_at_first(batches, state):
    time.sleep(0.5 if state.n_executions == 1 else 0)
    return right(batches)


@execution(Config(instances=3))
def answers_in_another_order_than_asked(batches, state):
    time.sleep(random.uniform(0, 0.004))
    return right(batches)


@execution()
def prints_for_every_request(batches, state):
    print(len(batches), "requests", flush=True)
    return right(batches)


@request()
def remembers_what_it_was_asked(given, found, state):
    state.kept[state.n_requests] = given["GAIN"]
