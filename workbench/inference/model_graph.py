"""What the exporter of an ONNX model left in its graph and no encoding here needs, taken out before it is opened."""

from typing import Any


def without_nan_guards(model: bytes) -> bytes:
    """``without_nan_guards(path.read_bytes())``: the model, with each softmax read as it is.

    torch's exporter lets a row of attention that is masked as a whole be 0 instead of NaN, by ``IsNaN`` and ``Where``
    behind each softmax. Where nothing is masked the outputs are the same, bit by bit, and these two are a fifth of the
    work on a long text (onnxruntime 1.32). A model without such guards comes back as it was.

    Parameters
    ----------
    model : bytes
        A serialised ONNX ``ModelProto``.

    Raises
    ------
    google.protobuf.message.DecodeError
        If the bytes are no such message.
    """
    parsed = _message("Model")()
    parsed.ParseFromString(model)
    made_by = {output: node for node in parsed.graph.node for output in node.output}
    bare = {node.output[0]: node.input[2] for node in parsed.graph.node if _is_nan_guard(node, made_by)}
    if not bare:
        return model
    kept = [node for node in parsed.graph.node if node.output[0] not in bare]
    for node in kept:
        node.input[:] = [bare.get(name, name) for name in node.input]
    asked = {name for node in kept for name in node.input}
    kept = [node for node in kept if node.op_type != "IsNaN" or node.output[0] in asked]
    lines = [node.SerializeToString() for node in kept]
    del parsed.graph.node[:]
    for line in lines:
        parsed.graph.node.add().ParseFromString(line)
    return bytes(parsed.SerializeToString())


def _is_nan_guard(node: Any, made_by: dict[str, Any]) -> bool:
    """Whether a node gives what a softmax gave, but another value where that is NaN."""
    if node.op_type != "Where" or node.input[0] not in made_by or node.input[2] not in made_by:
        return False
    asks, softmax = made_by[node.input[0]], made_by[node.input[2]]
    return (asks.op_type, softmax.op_type, list(asks.input)) == ("IsNaN", "Softmax", [node.input[2]])


def _message(name: str) -> Any:
    """Class of a message of ONNX with the few fields that are read here: protobuf keeps all others as they are."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="workbench/onnx.proto", package="workbench.onnx", syntax="proto2")
    node = file.message_type.add(name="Node")
    for number, called in ((1, "input"), (2, "output")):
        node.field.add(name=called, number=number, label=field.LABEL_REPEATED, type=field.TYPE_STRING)
    node.field.add(name="op_type", number=4, label=field.LABEL_OPTIONAL, type=field.TYPE_STRING)
    for holder, called, number, label, held in (
        ("Graph", "node", 1, field.LABEL_REPEATED, "Node"),
        ("Model", "graph", 7, field.LABEL_OPTIONAL, "Graph"),
    ):
        message = file.message_type.add(name=holder)
        type_name = f".workbench.onnx.{held}"
        message.field.add(name=called, number=number, label=label, type=field.TYPE_MESSAGE, type_name=type_name)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"workbench.onnx.{name}"))
