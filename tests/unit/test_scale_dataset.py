"""A data set is cut into partitions, and its output folder knows which are done."""

import json

import fsspec
import pyarrow
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.spec import AbstractBufferedFile
from pyarrow import parquet

from dualpath.errors import UserError
from dualpath.scale import dataset
from dualpath.scale.output import Output

CSV = 'id,Excerpt\n1,one cat\n\n2,two cats\n3,"three\ncats"\n4,caf\udce9\n5,five\n'.encode(errors="surrogateescape")
JSONL = b'{"excerpt": "one", "n": 1}\n{"excerpt": "two", "tags": ["a"]}\nno json\n'


@pytest.fixture
def table(tmp_path):
    """table(name, columns, rows of a group) writes Parquet."""

    def table(name, columns, group=2):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        parquet.write_table(pyarrow.table(columns), path, row_group_size=group)
        return path

    return table


def contents(address, n_rows):
    """The cells of all partitions, and where the rows stand."""
    data = dataset.plan(str(address), n_rows)
    rows = [dataset.read_rows(partition, data.schema) for partition in data.partitions]
    assert [partition.n_rows for partition in data.partitions] == [len(it.records) for it in rows]
    cells = [cell for it in rows for cell in it.table.to_pylist()]
    return cells, [record.where for it in rows for record in it.records]


@pytest.mark.parametrize("n_rows", [1, 2, 3, 5, 100])
def test_partitions_hold_every_row_once_in_order(tmp_path, n_rows):
    path = tmp_path / "in.csv"
    path.write_bytes(CSV)
    cells, where = contents(path, n_rows)
    texts = ["one cat", "two cats", "three\ncats", "caf�", "five"]
    assert cells == [{"id": str(i), "Excerpt": text} for i, text in enumerate(texts, 1)]
    assert where == [f"{path}:{line}" for line in (2, 4, 5, 7, 8)]


def test_json_lines_have_the_columns_of_all_rows_as_text(tmp_path):
    (tmp_path / "in.jsonl").write_bytes(JSONL)
    cells, where = contents(tmp_path / "in.jsonl", 2)
    assert cells == [
        {"excerpt": "one", "n": "1", "tags": ""},
        {"excerpt": "two", "n": "", "tags": '["a"]'},
        {"excerpt": "", "n": "", "tags": ""},
    ]
    assert [it.rpartition(":")[2] for it in where] == ["1", "2", "3"]


@pytest.mark.parametrize("n_rows", [1, 2, 3, 4, 7])
def test_parquet_keeps_its_types_and_reads_across_row_groups(table, n_rows):
    path = table("in.parquet", {"n": pyarrow.array(range(7), pyarrow.int16()), "excerpt": list("abcdefg")}, 3)
    cells, where = contents(path, n_rows)
    assert cells == [{"n": n, "excerpt": text} for n, text in enumerate("abcdefg")]
    assert where == [f"{path}:{row}" for row in range(1, 8)]
    assert dataset.plan(str(path), 2).schema.field("n").type == pyarrow.int16()


def test_files_of_a_folder_come_in_order_and_share_their_columns(table, tmp_path):
    table("in/b.parquet", {"excerpt": ["b"], "other": [1.5]})
    table("in/a.parquet", {"n": [1, 2], "excerpt": ["a", "aa"]})
    (tmp_path / "in" / "README").write_text("no table")
    cells, _ = contents(tmp_path / "in", 5)
    assert cells == [
        {"n": 1, "excerpt": "a", "other": None},
        {"n": 2, "excerpt": "aa", "other": None},
        {"n": None, "excerpt": "b", "other": 1.5},
    ]


def test_a_file_without_rows_beside_others_is_passed_over(table, tmp_path):
    table("in/a.parquet", {"excerpt": pyarrow.array([], pyarrow.string())})
    table("in/b.parquet", {"excerpt": ["b"]})
    cells, where = contents(tmp_path / "in", 5)
    assert cells == [{"excerpt": "b"}]
    assert where == [f"{tmp_path}/in/b.parquet:1"]


def test_a_column_that_a_file_lacks_is_empty_whatever_the_others_say_of_it(tmp_path):
    (tmp_path / "in").mkdir()
    never_empty = pyarrow.schema([("excerpt", pyarrow.string()), pyarrow.field("n", pyarrow.int64(), nullable=False)])
    parquet.write_table(pyarrow.table({"excerpt": ["a"], "n": [1]}, never_empty), tmp_path / "in" / "a.parquet")
    parquet.write_table(pyarrow.table({"excerpt": ["b"]}), tmp_path / "in" / "b.parquet")
    cells, _ = contents(tmp_path / "in", 5)
    assert [it["n"] for it in cells] == [1, None]


def test_an_address_of_any_file_system_is_read():
    with fsspec.open("memory://scale/in.jsonl", "wb") as file:
        file.write(JSONL)
    cells, where = contents("memory://scale/in.jsonl", 2)
    assert [it["n"] for it in cells] == ["1", "", ""]
    assert where[0] == "memory:///scale/in.jsonl:1"


class RemoteFile(AbstractBufferedFile):
    """What fsspec opens over a network: it fetches ranges of bytes."""

    def _fetch_range(self, start, end):
        return self.fs.cat_file(self.path)[start:end]


def test_text_is_read_from_a_store_over_a_network(monkeypatch):
    with fsspec.open("memory://scale/in.csv", "wb") as file:
        file.write(CSV)
    monkeypatch.setattr(MemoryFileSystem, "_open", lambda self, path, mode="rb", **_: RemoteFile(self, path, mode))
    cells, _ = contents("memory://scale/in.csv", 2)
    assert [it["id"] for it in cells] == ["1", "2", "3", "4", "5"]


def refuses(address, words):
    with pytest.raises(UserError, match=words):
        contents(address, 2)


def test_what_cannot_be_read_is_refused(table, tmp_path):
    refuses(tmp_path / "no.csv", r"expected a file or a folder, got nothing\. Look at its name")
    refuses("nosuch://a/b.csv", "expected a path or an address that fsspec knows")
    refuses(tmp_path, r"expected files that end in \.parquet, \.csv, \.jsonl, \.ndjson, got none")
    (tmp_path / "in.parquet").write_bytes(b"PAR1 and no more")
    refuses(tmp_path / "in.parquet", "expected a Parquet file, got:")
    refuses(table("in.parquet", {"text": ["a"]}), "expected a column 'excerpt', got 'text'")
    refuses(table("in.parquet", {"excerpt": pyarrow.array([], pyarrow.string())}), "expected at least one excerpt")
    twice = pyarrow.table([["a"], [1], [2]], ["excerpt", "n", "n"])
    parquet.write_table(twice, tmp_path / "in.parquet")
    refuses(tmp_path / "in.parquet", "expected columns of different names, got 'n' twice")
    table("both/a.parquet", {"excerpt": ["a"], "n": [1]})
    table("both/b.parquet", {"excerpt": ["a"], "n": ["one"]})
    refuses(tmp_path / "both", "expected files with the same types of columns, got: .*n")
    (tmp_path / "both" / "c.csv").write_bytes(CSV)
    refuses(tmp_path / "both", "expected either Parquet or text files, got both")


def test_input_that_shrinks_is_refused(tmp_path):
    path = tmp_path / "in.csv"
    path.write_text("excerpt\none\ntwo\n")
    data = dataset.plan(str(path), 2)
    path.write_text("excerpt\none\n")
    with pytest.raises(UserError, match="expected at least 2 rows, got 1"):
        dataset.read_rows(data.partitions[0], data.schema)


PARTITIONS = [dataset.Partition(i, "file:///in.csv", 10 * i, 10) for i in range(3)]
JOB = {"model": "orchestrator"}
SCORED, NONE = pyarrow.table({"score": [1.0]}), pyarrow.table({"reason": pyarrow.array([], pyarrow.string())})


@pytest.fixture(params=["local", "memory"])
def output(request, tmp_path):
    return Output(str(tmp_path / "out") if request.param == "local" else f"memory://{tmp_path.name}/out")


def test_a_partition_is_done_once_its_scores_are_there(output):
    assert output.begin(JOB, PARTITIONS, False) == PARTITIONS
    output.write(PARTITIONS[1], SCORED, NONE)
    assert output.begin(JOB, PARTITIONS, True) == [PARTITIONS[0], PARTITIONS[2]]


def test_a_partition_whose_scores_cannot_be_written_is_not_done(output, monkeypatch):
    output.begin(JOB, PARTITIONS, False)
    rejected = pyarrow.table({"reason": ["a"]})
    with monkeypatch.context() as patch:
        move = output._system.mv
        patch.setattr(output._system, "mv", lambda a, b: 1 / 0 if "/scores/" in b else move(a, b))
        with pytest.raises(ZeroDivisionError):
            output.write(PARTITIONS[0], SCORED, rejected)
    assert output.begin(JOB, PARTITIONS, True) == PARTITIONS
    assert output._system.ls(f"{output._root}/scores") == []
    output.write(PARTITIONS[0], SCORED, rejected)
    assert output.begin(JOB, PARTITIONS, True) == PARTITIONS[1:]


def test_a_row_that_failed_before_a_stop_and_has_a_score_after_it_is_there_once(output, monkeypatch):
    output.begin(JOB, PARTITIONS, False)
    with monkeypatch.context() as patch:
        move = output._system.mv
        patch.setattr(output._system, "mv", lambda a, b: 1 / 0 if "/scores/" in b else move(a, b))
        with pytest.raises(ZeroDivisionError):
            output.write(PARTITIONS[0], SCORED, pyarrow.table({"reason": ["a"]}))
    output.write(PARTITIONS[0], SCORED, NONE)
    assert output._system.ls(f"{output._root}/rejected") == []


def test_the_output_of_another_job_is_refused(output):
    output.begin(JOB, PARTITIONS, False)
    with pytest.raises(UserError, match=r"got one of an earlier job\. Name another, or add --resume"):
        output.begin(JOB, PARTITIONS, False)
    with pytest.raises(UserError, match="expected the same job, got one with other model, partitions"):
        output.begin({"model": "ensemble_all"}, PARTITIONS[:2], True)


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"got other files\. Name another"):
        Output(str(tmp_path)).begin(JOB, PARTITIONS, True)


def test_a_job_says_what_it_is(tmp_path):
    Output(str(tmp_path)).begin(JOB, PARTITIONS[:1], False)
    partition = {"number": 0, "address": "file:///in.csv", "first": 0, "n_rows": 10}
    assert json.loads((tmp_path / "job.json").read_text()) == {**JOB, "partitions": [partition]}
