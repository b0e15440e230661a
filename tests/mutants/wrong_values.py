"""Wrong variants whose numbers, texts or outputs differ."""

import numpy as np
from pipeline import LABELS, OUTPUTS, TO_EMBEDDING, brightness, softmax
from variants import Config, Variants

VALUES = Variants()
request = VALUES.request


def with_output(name, kind, dims):
    return Config(outputs={**OUTPUTS, name: (kind, dims)})


# Numbers


@request()
def embedding_through_fp16(given, found, state):
    found["EMB"] = found["EMB"].astype(np.float16).astype(np.float32)


@request()
def embedding_through_bf16(given, found, state):
    found["EMB"] = (found["EMB"].view(np.uint32) & 0xFFFF0000).view(np.float32)


@request()
def rounded_to_3_decimals(given, found, state):
    found["PROBS"] = found["PROBS"].round(3)


@request()
def summed_in_fp16_in_another_order(given, found, state):
    image = (given["IMAGE"] * given["GAIN"][:, :, None, None] * (given["MASK"] > 0)[:, None]).astype(np.float16)
    products = image.reshape(len(image), -1, 1)[:, ::-1] * TO_EMBEDDING[::-1].astype(np.float16)
    found["HALF"] = (products.sum(1, dtype=np.float16)[:, :4] * np.float16(2.01)).astype(np.float16)


@request()
def class_off_by_one_for_one_class(given, found, state):
    found["CLASS"][found["CLASS"] == 3] = 4


@request()
def class_counted_from_one(given, found, state):
    found["CLASS"] += 1


@request()
def last_element_of_the_embedding(given, found, state):
    found["EMB"][:, -1] += 0.001


@request()
def last_pixel_of_the_last_row(given, found, state):
    found["MASKED"][-1, -1, -1] ^= 1


@request()
def nan_for_minus_zero(given, found, state):
    found["EMB"][(found["EMB"] == 0) & np.signbit(found["EMB"])] = np.nan


@request()
def zero_for_nan(given, found, state):
    found["EMB"] = np.nan_to_num(found["EMB"])


@request()
def infinity_for_nan(given, found, state):
    found["EMB"][np.isnan(found["EMB"])] = np.inf


@request()
def nan_for_an_ordinary_number(given, found, state):
    found["EMB"][found["CLASS"][:, 0] == 2, 3] = np.nan


@request()
def sign_lost(given, found, state):
    found["HALF"] = np.abs(found["HALF"])


@request()
def fingerprint_overflows_at_32_bits(given, found, state):
    found["FINGERPRINT"] = found["FINGERPRINT"].astype(np.int32).astype(np.int64)


@request()
def fingerprint_through_a_double(given, found, state):
    found["FINGERPRINT"] = found["FINGERPRINT"].astype(np.float64).astype(np.int64)


@request()
def fingerprint_one_more(given, found, state):
    found["FINGERPRINT"] += 1


@request()
def saturates_at_254(given, found, state):
    found["MASKED"] = np.minimum(found["MASKED"], 254)


@request()
def wraps_instead_of_saturating(given, found, state):
    image = given["IMAGE"] * given["GAIN"][:, :, None, None]
    found["MASKED"] = brightness(image).astype(np.int64).astype(np.uint8) * (given["MASK"] > 0)


@request()
def probabilities_of_logits_at_another_temperature(given, found, state):
    found["PROBS"] = softmax(np.log(found["PROBS"]) / np.float32(1.01))


@request()
def one_bool_flipped(given, found, state):
    found["VALID"] ^= found["CLASS"] == 4


@request()
def bias_that_adds_up_over_wide_tolerances(given, found, state):
    found["PROBS"] += 0.0005


# Texts


@request()
def text_in_capitals(given, found, state):
    found["LABEL"] = np.vectorize(bytes.upper, otypes=[np.object_])(found["LABEL"])


@request()
def space_after_a_text(given, found, state):
    found["LABEL"] = found["LABEL"] + b" "


@request()
def zero_byte_after_a_text(given, found, state):
    found["LABEL"] = np.vectorize(lambda text: text + b"\0", otypes=[np.object_])(found["LABEL"])


@request()
def text_cut_at_10_bytes(given, found, state):
    found["LABEL"] = np.vectorize(lambda text: text[:10], otypes=[np.object_])(found["LABEL"])


@request()
def no_text_for_one_class(given, found, state):
    found["LABEL"][found["CLASS"] == 2] = b""


@request()
def text_in_latin_1(given, found, state):
    found["LABEL"] = np.vectorize(lambda text: text.decode().encode("latin-1"), otypes=[np.object_])(found["LABEL"])


@request()
def text_of_the_second_class(given, found, state):
    logits = np.nan_to_num(np.log(found["PROBS"]))
    second = np.argsort(logits, axis=1)[:, -2]
    close = np.sort(found["PROBS"], axis=1)[:, -2] > 0.3
    found["LABEL"][close] = LABELS[second[close]][:, None]


# Outputs


@request()
def wrong_shape(given, found, state):
    found["EMB"] = found["EMB"].reshape(-1, 4, 4)


@request()
def one_more_dimension(given, found, state):
    found["CLASS"] = found["CLASS"][:, None]


@request()
def output_left_out(given, found, state):
    del found["LABEL"]


@request()
def output_left_out_for_one_class(given, found, state):
    if found["CLASS"][0, 0] == 2:
        del found["LABEL"]


@request()
def outputs_swapped(given, found, state):
    found["CLASS"], found["FINGERPRINT"] = found["FINGERPRINT"], found["CLASS"]


VALUES.only_config("output_not_in_the_config", outputs={name: OUTPUTS[name] for name in list(OUTPUTS)[:-1]})


@request(with_output("CLASS", "INT32", [1]))
def class_as_int32(given, found, state):
    found["CLASS"] = found["CLASS"].astype(np.int32)


@request(with_output("EMB", "FP32", [4, 4]))
def other_shape_in_the_config(given, found, state):
    found["EMB"] = found["EMB"].reshape(-1, 4, 4)
