"""Each kind of tensor, on the public fake of Triton and on the real server: one test for both."""

import json

import fake_and_real
import numpy as np
import pytest
from fake_and_real import ARRAYS, BF16, said

fake, real, served = fake_and_real.fake, fake_and_real.real, fake_and_real.served


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("n", [2, 0])
def test_each_dtype_arrives_as_numpys_and_goes_back(served, name, n):
    array = ARRAYS[name][: n or 0]
    answer = served.infer("probe", {name: array}, parameters={"probe": "echo"})
    assert json.loads(answer["JSON"][0]) == [str(array.dtype), [len(array)]]
    assert answer[f"{name}_OUT"].dtype == array.dtype
    assert answer[f"{name}_OUT"].tolist() == array.tolist()


def test_bf16_is_seen_by_dlpack_alone(served):
    bits = np.array([0x3F80, 0xC000, 0x7F80], np.uint16)  # 1, -2, infinity
    answer = served.infer("probe", {BF16: bits}, parameters={"probe": "bf16"})
    assert answer["BF16_OUT"].tolist() == bits.tolist()
    assert json.loads(answer["JSON"][0]) == (
        "TritonModelException: Tensor dtype is BF16 and cannot be converted to NumPy. "
        "Use to_dlpack() and from_dlpack() instead."
    )


def test_numbers_pass_through_dlpack(served):
    assert said(served, "dlpack", {"FP32": np.array([1, 2], np.float32)}) == [[1, 2], "t", [1, 2]]


def test_strings_do_not_pass_through_dlpack(served):
    words = "TritonModelException: DLPack does not have support for string tensors."
    assert said(served, "text_dlpack", {"STRING": np.array([b"a"], np.object_)}) == [words] * 2


def test_what_is_no_tensor_is_refused(served):
    words = said(served, "refused_tensors")
    no_dtype = "TritonModelException: NumPy dtype is not supported."
    assert words.pop("dlpack").startswith("TritonModelException: Provided tensor is not supported.")
    assert words == {
        **dict.fromkeys(("str", "complex", "date", "big-endian"), no_dtype),
        **dict.fromkeys(("list", "code", "error"), "TypeError"),
    }


def test_a_tensor_of_a_view_has_its_values_in_order_and_one_of_an_array_is_that_array(served):
    answer = served.infer("probe", {}, parameters={"probe": "strided"})
    assert answer["INT64_OUT"].tolist() == [0, 2, 4]
    assert json.loads(answer["JSON"][0]) == [True, [[0, 3], [1, 4], [2, 5]]]


def test_text_leaves_as_utf_8(served):
    answer = served.infer("probe", {}, parameters={"probe": "texts"})
    assert answer["STRING_OUT"].tolist() == ["ä".encode(), b"\xff\x00", b""]
