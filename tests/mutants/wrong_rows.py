"""Wrong variants that mix up rows, requests or inputs."""

import numpy as np
from pipeline import MARK, answer, softmax
from variants import Variants, cut, right, stack

ROWS = Variants()
execution, request, inputs = ROWS.execution, ROWS.request, ROWS.inputs


def each(outputs, change):
    """Change every output; BYTES and numbers alike."""
    return {name: change(array) for name, array in outputs.items()}


# Rows of one request


@request()
def rows_reversed(given, found, state):
    return each(found, lambda array: array[::-1])


@request()
def rows_rotated(given, found, state):
    return each(found, lambda array: np.roll(array, 1, axis=0))


@request()
def rows_sorted(given, found, state):
    order = np.argsort(found["FINGERPRINT"][:, 0])
    return each(found, lambda array: array[order])


@request()
def last_row_dropped(given, found, state):
    return each(found, lambda array: array[:-1]) if len(given["IMAGE"]) > 1 else None


@request()
def last_row_doubled(given, found, state):
    return each(found, lambda array: np.concatenate([array, array[-1:]]))


@request()
def first_row_answers_the_second(given, found, state):
    for array in found.values():
        array[1:2] = array[:1]


@request()
def first_row_answers_all(given, found, state):
    for array in found.values():
        array[:] = array[:1]


@request()
def last_row_of_a_batch_zero(given, found, state):
    if len(given["IMAGE"]) > 1:
        found["EMB"][-1] = 0


@request()
def labels_alone_reversed(given, found, state):
    found["LABEL"] = found["LABEL"][::-1]


@request()
def two_middle_rows_swapped_in_batches_of_16(given, found, state):
    if len(given["IMAGE"]) == 16:
        for array in found.values():
            array[[7, 8]] = array[[8, 7]]


# Rows of other requests


@execution()
def neighbours_answer_under_load(batches, state):
    found = right(batches)
    if len(found) > 1 and len(batches[0]["IMAGE"]) == len(batches[1]["IMAGE"]):
        found[:2] = found[1::-1]
    return found


@execution()
def rows_cut_one_off_under_load(batches, state):
    outputs = answer(stack(batches))
    return cut(each(outputs, lambda array: np.roll(array, 1, axis=0)) if len(batches) > 1 else outputs, batches)


@execution()
def last_answer_to_all_under_load(batches, state):
    """A loop's variable that callbacks read too late."""
    found = right(batches)
    same = all(len(batch["IMAGE"]) == len(batches[-1]["IMAGE"]) for batch in batches)
    return [found[-1]] * len(found) if same else found


@execution()
def last_request_wrong_under_concurrency(batches, state):
    found = right(batches)
    if len(found) > 1:
        found[-1] = {**found[-1], "PROBS": found[-1]["PROBS"][:, ::-1]}
    return found


@execution()
def batches_over_8_wrong(batches, state):
    outputs = answer(stack(batches))
    outputs["EMB"][8:] *= 1.01
    return cut(outputs, batches)


@request()
def stale_answer(given, found, state):
    before = state.kept.get(len(given["IMAGE"]), found)
    state.kept[len(given["IMAGE"])] = found
    return before


@request()
def stale_embedding_every_tenth_request(given, found, state):
    before, state.kept["EMB"] = state.kept.get("EMB"), found["EMB"]
    if state.n_requests % 10 == 0 and before is not None and before.shape == found["EMB"].shape:
        found["EMB"] = before


@execution()
def stale_tail_of_a_larger_batch(batches, state):
    outputs = answer(stack(batches))
    buffer = state.kept.setdefault("EMB", np.zeros((256, 16), np.float32))
    n_rows = len(outputs["EMB"])
    buffer[: max(1, n_rows - 1)] = outputs["EMB"][: max(1, n_rows - 1)]
    outputs["EMB"] = buffer[:n_rows].copy()
    return cut(outputs, batches)


@execution()
def batch_mean_subtracted(batches, state):
    outputs = answer(stack(batches))
    if len(outputs["EMB"]) > 1:
        outputs["EMB"] -= np.nanmean(outputs["EMB"], axis=0)
    return cut(outputs, batches)


@execution()
def softmax_over_the_batch(batches, state):
    outputs = answer(stack(batches))
    outputs["PROBS"] = softmax(np.log(outputs["PROBS"]), axis=0)
    return cut(outputs, batches)


@execution()
def padding_leaks_into_a_row(batches, state):
    outputs = answer(stack(batches))
    n_rows = len(outputs["EMB"])
    outputs["EMB"][-1, 0] += 0.01 * (-n_rows % 4)
    return cut(outputs, batches)


@inputs()
def gain_of_the_first_row_for_all(given):
    return {"GAIN": np.repeat(given["GAIN"][:1], len(given["GAIN"]), axis=0)}


@execution()
def gain_of_the_first_request_for_all(batches, state):
    return right([{**batch, "GAIN": np.full_like(batch["GAIN"], batches[0]["GAIN"][0, 0])} for batch in batches])


@request()
def cache_that_forgets_the_gain(given, found, state):
    for i, image in enumerate(given["IMAGE"]):
        found["EMB"][i] = state.kept.setdefault(image.tobytes(), found["EMB"][i].copy())


# Inputs


@inputs()
def gain_ignored(given):
    return {"GAIN": np.ones_like(given["GAIN"])}


@inputs()
def mask_ignored(given):
    return {"MASK": np.ones_like(given["MASK"])}


@inputs()
def channels_reversed(given):
    return {"IMAGE": given["IMAGE"][:, ::-1]}


@inputs()
def rows_and_columns_swapped(given):
    return {"IMAGE": given["IMAGE"].transpose(0, 1, 3, 2)}


@request()
def one_in_1000_rows_by_its_content(given, found, state):
    found["CLASS"][given["MASK"][:, 0, 0] == MARK] = 0
    found["EMB"][given["MASK"][:, 0, 0] == MARK] *= 1.01
