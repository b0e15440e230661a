from contextlib import closing
from dataclasses import replace

import pytest
from served_models import PAIR, Model, served

from dualpath.compare.target import Target, pair, read, split
from dualpath.errors import UserError
from dualpath.readability.contract import EXCERPT, ROUTE, SCORE, WEIGHT, Tensor
from dualpath.serving.client import connect


def model(name="a", inputs=(EXCERPT, WEIGHT), outputs=(SCORE,), max_batch_size=8, optional=()):
    return Target(name, "", max_batch_size, inputs, outputs, frozenset(optional))


def refused(function, *arguments):
    with pytest.raises(UserError) as caught:
        function(*arguments)
    return str(caught.value)


@pytest.fixture(scope="module")
def client():
    models = {
        **PAIR,
        "decoupled": Model(config={"model_transaction_policy": {"decoupled": True}}),
        "sequence": Model(config={"sequence_batching": {}}),
    }
    with served(models) as (url, _):
        client = connect(url)
        yield client
        client.close()


def test_a_model_is_read_from_its_server(client):
    it = read(client, "orchestrator")
    assert it == Target("orchestrator", "", 512, (EXCERPT, WEIGHT), (SCORE, ROUTE))
    assert it.name == "orchestrator"
    assert read(client, "orchestrator:3").name == "orchestrator:3"


def test_a_model_that_is_not_served_is_refused_with_those_that_are(client):
    message = refused(read, client, "nope")
    assert message.startswith(
        "nope: expected a model that is ready, got one that is not. It serves decoupled, ensemble_all"
    )
    assert message.endswith("sequence; see `dualpath models`.")


def test_a_server_that_does_not_tell_what_it_serves_refuses_all_the_same():
    with served(PAIR) as (url, servicer):
        servicer.unimplemented.add("RepositoryIndex")
        with closing(connect(url)) as client:
            message = refused(read, client, "nope")
    assert message == "nope: expected a model that is ready, got one that is not. See `dualpath models`."


def test_decoupled_models_are_asked_over_streams(client):
    decoupled, plain = (read(client, name) for name in ("decoupled", "orchestrator"))
    assert pair(decoupled, plain).streams
    assert not pair(plain, plain).streams


def test_models_that_keep_state_are_asked_one_row_a_request_and_so_are_ensembles_of_them():
    step = {"model_name": "sequence", "model_version": -1}
    models = {
        "steps": Model(config={"ensemble_scheduling": {"step": [step]}}),
        "sequence": Model(config={"sequence_batching": {}}),
    }
    with served(models) as (url, _), closing(connect(url)) as client:
        steps, sequence = (read(client, name) for name in ("steps", "sequence"))
    assert (steps.keeps_state, sequence.keeps_state) == (True, True)
    plain = replace(steps, keeps_state=False)
    assert [(it.keeps_state, it.max_batch_size) for it in (pair(steps, plain), pair(plain, plain))] == [
        (True, 1),
        (False, 512),
    ]


def test_names_are_split():
    assert split("orchestrator") == ("orchestrator", "")
    assert split("orchestrator:12") == ("orchestrator", "12")
    for name in ("", "a:", "a:b", "a:0", "a:1:2", ":1"):
        assert refused(split, name).startswith("model: expected NAME or NAME:VERSION")


def test_outputs_of_the_other_model_alone_are_left_out_and_named():
    found = pair(model(outputs=(SCORE,)), model("b", outputs=(ROUTE, SCORE)))
    assert found.outputs == (SCORE,)
    assert found.notes == ("Left out, as only b has it: ROUTE.",)


def test_outputs_of_the_baseline_that_the_other_lacks_or_has_of_another_type_are_at_odds_unless_ignored():
    other = Tensor("ROUTE", "TYPE_INT32", (1,))
    found = pair(model(outputs=(SCORE, ROUTE)), model("b", outputs=(SCORE, other)))
    assert found.outputs == (SCORE,)
    assert found.at_odds == {"ROUTE": ("TYPE_STRING", "TYPE_INT32")}
    found = pair(model(outputs=(SCORE, ROUTE)), model("b", outputs=(SCORE,)))
    assert found.at_odds == {"ROUTE": ("TYPE_STRING", "no output")}
    assert found.without(["ROUTE"]).at_odds == {}
    assert refused(found.without, ["ROAD"]).startswith("--ignore: expected one of the outputs SCORE, ROUTE, got 'ROAD'")


def test_models_without_an_output_in_common_are_refused():
    message = refused(pair, model(), model("b", outputs=(ROUTE,)))
    assert message.startswith("a, b: expected an output in common, got SCORE of a and ROUTE of b.")


def test_models_with_different_inputs_are_refused():
    message = refused(pair, model(), model("b", inputs=(EXCERPT,)))
    assert message.startswith("a, b: expected the same inputs, got excerpt, BERT_WEIGHT of a and excerpt of b.")
    other = Tensor("BERT_WEIGHT", "TYPE_FP64", (-1,))
    message = refused(pair, model(), model("b", inputs=(EXCERPT, other)))
    assert message.startswith(
        "BERT_WEIGHT: expected an input of the same type and shape in both, got TYPE_FP32 [-1] of a and TYPE_FP64 [-1]"
    )
    assert "[-1, 1] of b" in refused(
        pair, model(), model("b", inputs=(EXCERPT, Tensor("BERT_WEIGHT", "TYPE_FP32", (-1, 1))))
    )


def test_an_optional_input_may_be_missing():
    extra = Tensor("extra", "TYPE_FP32", (1,))
    found = pair(model(), model("b", inputs=(EXCERPT, WEIGHT, extra), optional=["extra"]))
    assert found.inputs == (EXCERPT, WEIGHT)
    assert found.notes == ("Left out, as only b has it: the optional input extra.",)


def test_an_input_that_is_optional_in_both_is_left_out_if_there_is_no_value():
    extra = Tensor("extra", "TYPE_FP32", (1,))
    inputs = (EXCERPT, WEIGHT, extra)
    found = pair(model(inputs=inputs, optional=["extra"]), model("b", inputs=inputs, optional=["extra", "excerpt"]))
    assert found.given(lambda name: True) == found
    left = found.given(lambda name: False)
    assert left.inputs == (EXCERPT, WEIGHT)
    assert left.notes == ("Left out, as no row has a value for it: the optional input extra.",)


def test_the_narrower_of_two_models_sets_shape_and_batch():
    fixed = Tensor("X", "TYPE_FP32", (3, -1))
    found = pair(model(inputs=(Tensor("X", "TYPE_FP32", (-1, -1)),)), model("b", inputs=(fixed,), max_batch_size=4))
    assert found.inputs == (fixed,)
    assert found.max_batch_size == 4
    assert pair(model(max_batch_size=0), model("b")).max_batch_size == 1
