"""Rows from files: what is read, and what is refused in which words."""

import base64
import json
import struct

import numpy as np
import openpyxl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualpath.compare import inputs
from dualpath.compare.tensors import BadValue, from_base64, from_values, infer_input
from dualpath.errors import UserError
from dualpath.readability.contract import EXCERPT, WEIGHT, Tensor
from dualpath.readability.samples import SAMPLES
from dualpath.tables import TOO_MUCH

OURS = (EXCERPT, WEIGHT)
INT8 = Tensor("X", "TYPE_INT8", (2, -1))
FP16 = Tensor("Y", "TYPE_FP16", (-1, -1))
BOOL = Tensor("Z", "TYPE_BOOL", (1,))
OTHERS = (INT8, FP16, BOOL)
DEEP = "[" * 100_000 + "]" * 100_000


@pytest.fixture
def rows(tmp_path):
    def rows(name, content, tensors=OURS):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return inputs.read(path).tensors(tensors)

    return rows


@pytest.fixture
def refused(rows, tmp_path):
    def refused(name, content, tensors=OURS):
        with pytest.raises(UserError) as caught:
            rows(name, content, tensors)
        return str(caught.value).replace(f"{tmp_path}/", "")

    return refused


def values(row):
    return {name: array.tolist() for name, array in row.tensors.items()}


def test_a_csv_has_a_column_for_each_input_whatever_its_case(rows, tmp_path):
    first, second, third = rows("in.csv", '\ufeffid,excerpt,bert_weight\n1,one,0.25\n\n2,"two\nlines",\n3,dreißig,1\n')
    assert values(first) == {"excerpt": [b"one"], "BERT_WEIGHT": [0.25]}
    assert values(second) == {"excerpt": [b"two\nlines"], "BERT_WEIGHT": [inputs.DEFAULT_WEIGHT]}
    assert values(third) == {"excerpt": ["dreißig".encode()], "BERT_WEIGHT": [1]}
    assert [row.where for row in (first, second, third)] == [f"{tmp_path}/in.csv:{line}" for line in (2, 4, 6)]
    assert inputs.read(tmp_path / "in.csv").n_without_weight() == 1


def test_a_csv_without_weights_gets_the_default(rows, tmp_path):
    [row] = rows("in.csv", "excerpt\none\n")
    assert values(row)["BERT_WEIGHT"] == [inputs.DEFAULT_WEIGHT]
    assert inputs.read(tmp_path / "in.csv").n_without_weight() == 1


@pytest.mark.parametrize(
    ("name", "content"),
    [("in.csv", "excerpt,X,Y\na,,1\nb,,\n"), ("in.json", '{"data": [{"excerpt": ["a"]}, {"Y": [0]}]}')],
)
def test_an_input_is_there_if_any_row_has_a_value(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    source = inputs.read(tmp_path / name)
    assert [it for it in ("excerpt", "X", "Y", WEIGHT.name) if source.has(it)] == ["excerpt", "Y", WEIGHT.name]


def test_a_cell_may_hold_a_json_list(rows):
    [row] = rows("in.csv", 'X,Y,Z\n"[1, -2, 3, 4]","[[1.5, 2], [3, 4]]",true\n', OTHERS)
    assert values(row) == {"X": [[1, -2], [3, 4]], "Y": [[1.5, 2], [3, 4]], "Z": [True]}
    assert [array.dtype for array in row.tensors.values()] == [np.int8, np.float16, bool]


def b64(raw):
    return {"b64": base64.b64encode(raw).decode()}


def test_json_is_read_as_perf_analyzer_reads_it(rows, tmp_path):
    data = [
        {"excerpt": ["one"], "BERT_WEIGHT": [0.25]},
        {"excerpt": {"content": ["two"], "shape": [1]}, "BERT_WEIGHT": b64(struct.pack("<f", 1))},
        {
            "excerpt": b64(struct.pack("<I", 5) + b"three"),
            "BERT_WEIGHT": {"content": b64(struct.pack("<f", 0)), "shape": [1]},
        },
        {"excerpt": ["four"]},
    ]
    read = rows("in.json", json.dumps({"data": data}))
    assert [values(row)["excerpt"] for row in read] == [[b"one"], [b"two"], [b"three"], [b"four"]]
    assert [values(row)["BERT_WEIGHT"] for row in read] == [[0.25], [1], [0], [0.5]]
    assert read[3].where == f"{tmp_path}/in.json: data[3]"


def test_streams_of_json_are_taken_one_after_the_other(rows):
    assert len(rows("in.json", '{"data": [[{"excerpt": ["a"]}, {"excerpt": ["b"]}], [{"excerpt": ["c"]}]]}')) == 3


def test_json_shapes_are_row_major(rows):
    [row] = rows(
        "in.json",
        json.dumps({"data": [{"X": {"content": [1, 2, 3, 4, 5, 6], "shape": [2, 3]}, "Y": [[1]], "Z": [0]}]}),
        OTHERS,
    )
    assert values(row) == {"X": [[1, 2, 3], [4, 5, 6]], "Y": [[1]], "Z": [False]}


@pytest.mark.parametrize("ending", ["jsonl", "parquet", "xlsx"])
def test_other_tables_have_a_column_for_each_input_too(rows, tmp_path, ending):
    cells = [{"excerpt": "one", "bert_weight": 0.25, "id": 7}, {"excerpt": "two", "bert_weight": None, "id": 8}]
    path = tmp_path / f"in.{ending}"
    if ending == "jsonl":
        path.write_text("\n".join(map(json.dumps, cells)))
    elif ending == "parquet":
        pyarrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist(cells), path)
    else:
        book = openpyxl.Workbook()
        for row in ([*cells[0]], *([*it.values()] for it in cells)):
            book.active.append(row)
        book.save(path)
    first, second = rows(path.name, path.read_bytes())
    assert values(first) == {"excerpt": [b"one"], "BERT_WEIGHT": [0.25]}
    assert values(second) == {"excerpt": [b"two"], "BERT_WEIGHT": [inputs.DEFAULT_WEIGHT]}
    assert second.where == f"{path}:{3 if ending == 'xlsx' else 2}"


def test_json_lines_hold_tensors_as_lists(rows):
    [row] = rows("in.jsonl", '{"X": [1, -2, 3, 4], "Y": [[1.5, 2], [3, 4]], "Z": true, "more": 1}\n', OTHERS)
    assert values(row) == {"X": [[1, -2], [3, 4]], "Y": [[1.5, 2], [3, 4]], "Z": [True]}


def test_built_in_excerpts_need_no_file():
    source = inputs.read(None)
    assert source.is_built_in
    assert [values(row)["excerpt"] for row in source.tensors(OURS)] == [[text.encode()] for text in SAMPLES.values()]
    assert source.tensors(OURS)[0].where == "built-in excerpt 'Nursery rhyme'"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "in.csv: expected a CSV with a header and rows, got an empty file."),
        ("excerpt\n\n", "in.csv: expected at least one row, got none."),
        ("text\na\n", "in.csv:2: expected a value for excerpt, got values for 'text'. Add it."),
        ("excerpt,excerpt\na,b\n", "in.csv:1: expected columns of different names, got 'excerpt' twice."),
        ("excerpt\na,b\n", "in.csv:2: expected 1 columns, got 2. Quote a text that holds commas."),
        ("excerpt,id\na,1\nb\n", "in.csv:3: expected 2 columns, got 1."),
        ('excerpt\na\n"b\n', "in.csv:3: expected a row of a CSV, got: unexpected end of data."),
        (b"excerpt\nok\ncaf\xe9\n", "in.csv:3: excerpt: expected UTF-8 text, got byte 0xe9 at offset 3."),
        ("excerpt,id\n,1\n", "in.csv:2: excerpt: expected text with at least one word, got an empty text."),
        (
            "excerpt,Bert_Weight,bert_weight\na,0,1\n",
            "--input: expected one column for BERT_WEIGHT, got 'Bert_Weight' and 'bert_weight'. Rename one.",
        ),
        ("excerpt,BERT_WEIGHT\na,2\n", "in.csv:2: BERT_WEIGHT: expected a number from 0 to 1, got 2. Correct it."),
        ("excerpt,BERT_WEIGHT\na,nan\n", "in.csv:2: BERT_WEIGHT: expected a number from 0 to 1, got nan. Correct it."),
        ("excerpt,BERT_WEIGHT\na,x\n", "in.csv:2: BERT_WEIGHT: expected a number of type float32, got 'x'."),
    ],
)
def test_a_bad_csv_is_refused_with_its_line(refused, content, message):
    assert refused("in.csv", content).startswith(message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "in.json:1: expected JSON, got: Expecting value at column 1."),
        ('{"data": [\n{"excerpt": }]}', "in.json:2: expected JSON, got: Expecting value at column 13."),
        (b'{"data": "\xe9"}', "in.json: expected UTF-8, got byte 0xe9 at offset 10."),
        ("[1]", 'in.json: expected {"data": [{"INPUT": [values], …}, …]} as perf_analyzer\'s --input-data, got [1].'),
        ('{"data": []}', "in.json: expected at least one row, got none."),
        ('{"data": [7]}', 'in.json: data[0]: expected {"INPUT": [values], …}, got 7.'),
        (
            '{"data": [{"BERT_WEIGHT": [1]}]}',
            "in.json: data[0]: expected a value for excerpt, got values for 'BERT_WEIGHT'.",
        ),
        (
            '{"data": [{"excerpt": ["a"], "x": [1]}]}',
            "in.json: data[0]: expected values for excerpt, BERT_WEIGHT only, got",
        ),
        ('{"data": [{"excerpt": "a"}]}', "in.json: data[0]: excerpt: expected a list of values, got 'a'."),
        ('{"data": [{"excerpt": [1]}]}', "in.json: data[0]: excerpt: expected a text, got 1."),
        ('{"data": [{"excerpt": {"b64": "%"}}]}', "in.json: data[0]: excerpt: expected Base64, got: "),
        (
            '{"data": [{"excerpt": {"b64": "é"}}]}',
            "in.json: data[0]: excerpt: expected Base64, got: string argument should contain only ASCII characters.",
        ),
        (
            '{"data": [{"excerpt": ["\\ud800"]}]}',
            "in.json: data[0]: excerpt: expected a text of whole characters, got '\\ud800'.",
        ),
        (f'{{"data": [{{"excerpt": [{"1" * 5000}]}}]}}', f"in.json: expected JSON, got {TOO_MUCH}."),
        (DEEP, f"in.json: expected JSON, got {TOO_MUCH}."),
        (
            '{"data": [{"excerpt": {"b64": "AAAB"}}]}',
            "in.json: data[0]: excerpt: expected Base64 of whole BYTES elements, got 3",
        ),
        ('{"data": [{"excerpt": {"c": 1}}]}', 'in.json: data[0]: excerpt: expected [values], {"b64": …} or {"content"'),
        (
            '{"data": [{"excerpt": {"content": ["a"], "shape": 1}}]}',
            "in.json: data[0]: excerpt: expected a shape such as",
        ),
    ],
)
def test_bad_json_is_refused_with_its_place(refused, content, message):
    assert refused("in.json", content).startswith(message)


@pytest.mark.parametrize("cell", ["[" + "1" * 5000 + "]", "[", "[[1, 2]"])
def test_a_cell_that_is_no_list_is_refused(refused, cell):
    message = refused("in.csv", f'X\n"{cell}"\n', (INT8,))
    assert message.startswith("in.csv:2: X: expected a JSON list of [2, -1] elements, got ")
    assert len(message) < 150


def test_a_cell_of_lists_without_end_is_refused(refused):
    message = refused("in.csv", f'X\n"{DEEP}"\n', (INT8,))
    assert message == f"in.csv:2: X: expected a list of values, got {TOO_MUCH}. Give less."


@pytest.mark.parametrize("depth", [500, 2000])
def test_lists_deeper_than_the_tensor_are_refused_however_deep(refused, depth):
    nested = "[" * depth + "1" + "]" * depth
    assert "expected" in refused("in.json", f'{{"data": [{{"X": {nested}}}]}}', (INT8,))
    assert "expected" in refused("in.json", nested, (INT8,))


def test_other_files_are_refused(tmp_path):
    (tmp_path / "in.txt").write_text("a text\n")
    with pytest.raises(
        UserError, match=r"--input: expected a file that ends in \.csv, .* or \.json, got '.*in\.txt'\."
    ):
        inputs.read(tmp_path / "in.txt")
    with pytest.raises(UserError, match=r"--input: expected a file, got '.*in\.csv': No such file or directory\."):
        inputs.read(tmp_path / "in.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(UserError, match="Is a directory"):
        inputs.read(tmp_path / "folder.csv")


@pytest.mark.parametrize(
    ("given_values", "shape", "tensor", "message"),
    [
        ([1, 2, 3], None, INT8, "expected shape [2, -1], got 3 values"),
        ([1, 2, 3, 128], None, INT8, "expected a number of type int8, got 128"),
        ([1, 2.5], None, INT8, "expected a number of type int8, got 2.5"),
        ([1, None], None, INT8, "expected a number of type int8, got None"),
        ([1, True], None, INT8, "expected a number of type int8, got True"),
        ([[True]], None, FP16, "expected a number of type float16, got True"),
        ([[1, 2], [3]], None, INT8, "expected a list of values, got [[1, 2], [3]]"),
        ([1, 2, 3, 4], [2, 3], INT8, "expected 6 values for shape [2, 3], got 4"),
        ([1, 2, 3, 4], [4], INT8, "expected shape [2, -1], got [4]"),
        ([1, 2, 3, 4], [4, 1], INT8, "expected shape [2, -1], got [4, 1]"),
        ([1, 2], [-1, -2], FP16, "expected shape [-1, -1], got [-1, -2]"),
        ([1.0], None, FP16, "expected a shape with the values, as [-1, -1] leaves it open"),
        ([[1e9]], None, FP16, "expected a number of type float16, got 1000000000.0"),
        ([2], None, BOOL, "expected true or false, got 2"),
    ],
)
def test_values_that_do_not_fit_are_refused(given_values, shape, tensor, message):
    with pytest.raises(BadValue) as caught:
        from_values(given_values, tensor, shape)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("dtype", "numpy_dtype"),
    [
        ("TYPE_FP32", np.float32),
        ("TYPE_FP64", np.float64),
        ("TYPE_INT64", np.int64),
        ("TYPE_UINT8", np.uint8),
        ("TYPE_INT32", np.int32),
    ],
)
@given(data=st.data())
def test_numbers_survive_the_way_through_json_and_base64(dtype, numpy_dtype, data):
    tensor = Tensor("T", dtype, (-1, 2))
    kind = np.dtype(numpy_dtype)
    if kind.kind == "f":
        numbers = st.floats(width=kind.itemsize * 8, allow_nan=False)
    else:
        limits = np.iinfo(kind)
        numbers = st.integers(int(limits.min), int(limits.max))
    array = np.array(data.draw(st.lists(st.tuples(numbers, numbers), min_size=1)), kind)
    for read in (
        from_values(json.loads(json.dumps(array.tolist())), tensor),
        from_values(array.ravel().tolist(), tensor),
        from_base64(base64.b64encode(array.tobytes()).decode(), tensor),
    ):
        assert read.dtype == array.dtype
        assert read.tolist() == array.tolist()
    assert infer_input(tensor, read).shape() == list(array.shape)


def test_brain_floats_can_be_sent():
    tensor = Tensor("T", "TYPE_BF16", (2,))
    assert infer_input(tensor, from_values([1.5, 2], tensor))._get_content() == b"\xc0\x3f\x00\x40"


def test_brain_floats_are_read_from_base64_whatever_their_number():
    tensor = Tensor("T", "TYPE_BF16", (-1,))
    read = from_base64(base64.b64encode(b"\xc0\x3f\x00\x40\x00\x80").decode(), tensor)
    assert (read.dtype, read.tolist()) == (np.float32, [1.5, 2.0, -0.0])
    assert infer_input(tensor, read)._get_content() == b"\xc0\x3f\x00\x40\x00\x80"


def test_an_optional_input_may_be_left_out_row_by_row(rows, tmp_path):
    tensors = (Tensor("X", "TYPE_FP32", (1,)), Tensor("GAIN", "TYPE_FP32", (1,)))
    for name, content in (
        ("in.csv", "X,GAIN\n1,2\n3,\n"),
        ("in.json", '{"data": [{"X": [1], "GAIN": [2]}, {"X": [3]}]}'),
    ):
        (tmp_path / name).write_text(content)
        read = inputs.read(tmp_path / name).tensors(tensors, {"GAIN"})
        assert [values(row) for row in read] == [{"X": [1], "GAIN": [2]}, {"X": [3]}]
    with pytest.raises(UserError, match="expected a value for GAIN"):
        inputs.read(tmp_path / "in.json").tensors(tensors)


def test_validation_data_are_the_outputs_of_each_row(tmp_path):
    path = tmp_path / "in.json"
    path.write_text('{"data": [{"X": [1]}, {"X": [2]}], "validation_data": [{"Y": [5]}, {}]}')
    outputs = (Tensor("Y", "TYPE_INT32", (1,)), Tensor("Z", "TYPE_FP32", (1,)))
    found = inputs.read(path).expected(outputs, ["Y", "Z"])
    assert [{name: array.tolist() for name, array in row.items()} for row in found] == [{"Y": [5]}, {}]
    assert [sorted(row) for row in inputs.read(path).expected(outputs[1:], ["Y", "Z"])] == [[], []]  # Y is ignored
    with pytest.raises(UserError, match=r"validation_data\[0\]: expected outputs of the models \(Z\), got 'Y'"):
        inputs.read(path).expected(outputs[1:], ["Z"])
    path.write_text('{"data": [{"X": [1]}, {"X": [2]}], "validation_data": [{"Y": [5]}]}')
    with pytest.raises(UserError, match="expected validation_data for each of 2 rows"):
        inputs.read(path)
