"""Wrong variants that answer only some requests wrongly, or fail them."""

import os
import time

import numpy as np
from pipeline import answer
from variants import Variants, cut, right, stack

REQUESTS = Variants()
execution, request = REQUESTS.execution, REQUESTS.request


# Some requests


@request()
def every_third_request_wrong(given, found, state):
    if state.n_requests % 3 == 0:
        found["HALF"] += np.float16(0.5)


@request()
def one_in_50_requests_wrong(given, found, state):
    if state.n_requests % 50 == 0:
        found["PROBS"] = found["PROBS"][:, ::-1]


@request()
def first_request_wrong(given, found, state):
    if state.n_requests == 1:
        found["EMB"][:] = 0


@request()
def drifts_with_the_number_of_requests(given, found, state):
    found["EMB"] += np.float32(1e-5 * state.n_requests)


@request()
def wrong_after_150_requests(given, found, state):
    if state.n_requests > 150:
        found["LABEL"] = found["LABEL"][:, ::-1] + b"!"


# Failures


@execution()
def error_of_one_row_fails_all_others(batches, state):
    if any((found["CLASS"] == 0).any() for found in right(batches)):
        return [ValueError("class 0 is not known")] * len(batches)
    return right(batches)


@request()
def error_in_one_of_50_requests(given, found, state):
    if state.n_requests % 50 == 0:
        raise ValueError("lost the connection")


@execution()
def error_with_more_than_one_request(batches, state):
    found = right(batches)
    return [*found[:-1], ValueError("busy")] if len(found) > 1 else found


@execution()
def zeros_if_a_row_is_bad(batches, state):
    """An exception that was swallowed."""
    found = answer(stack(batches))
    found["PROBS"][~stack(batches)["MASK"].any((1, 2))] = 0
    return cut(found, batches)


@request()
def hangs_once(given, found, state):
    if state.n_requests == 40:
        time.sleep(8)


@request()
def process_ends_at_request_60(given, found, state):
    if state.n_requests == 60:
        os._exit(1)
