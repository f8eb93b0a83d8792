"""Reads what an ONNX file says about itself, without the onnx package. Runs nothing and knows no router.

The device has no `onnx`, and a session that meets external data opens files before anybody can object. So the few facts
that matter are read here, from the protobuf wire format: field numbers are those of onnx.proto.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

MODEL = {7: "graph", 8: "opset", 25: "function"}
GRAPH = {1: "node", 5: "tensor", 15: "sparse"}
NODE = {4: "op_type", 5: "attribute", 7: "domain"}
ATTRIBUTE = {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"}
TENSOR = {13: "external", 14: "location"}
SPARSE = {1: "tensor", 2: "tensor"}
FUNCTION = {7: "node", 9: "opset"}
OPSET = {1: "domain"}
SCHEMAS = {
    "graph": GRAPH,
    "node": NODE,
    "attribute": ATTRIBUTE,
    "tensor": TENSOR,
    "sparse": SPARSE,
    "function": FUNCTION,
    "opset": OPSET,
}


@dataclass(slots=True)
class OnnxFacts:
    """What one ONNX file contains."""

    operators: set[str] = field(default_factory=set)
    """Operator names, subgraphs included."""
    domains: set[str] = field(default_factory=set)
    """Domains of the operators, and those the file imports; the default domain is ''."""
    external_data: bool = False
    """Whether any weight lies in another file."""


def read_facts(data: bytes) -> OnnxFacts:
    """The operators, domains and external data of a serialized model.

    :raises ValueError: when the bytes are not protobuf or hold no graph.
    """
    facts = OnnxFacts()
    if not any(number == 7 for number, _ in _fields(memoryview(data))):
        raise ValueError("no graph in it")
    _walk(memoryview(data), MODEL, facts)
    facts.domains = {"" if domain == "ai.onnx" else domain for domain in facts.domains}
    return facts


def _walk(message: memoryview, schema: dict[int, str], facts: OnnxFacts) -> None:
    for number, value in _fields(message):
        name = schema.get(number)
        if name in ("external", "location"):
            facts.external_data |= name == "external" or value == 1
        elif isinstance(value, memoryview):
            if name == "op_type":
                facts.operators.add(str(value, "utf-8"))
            elif name == "domain":
                facts.domains.add(str(value, "utf-8"))
            elif name is not None:
                _walk(value, SCHEMAS[name], facts)


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(field number, value) of one protobuf message; submessages, strings and bytes come as views."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        wire_type = key & 7
        if wire_type == VARINT:
            value, position = _varint(message, position)
            yield key >> 3, value
            continue
        if wire_type == BYTES:
            size, position = _varint(message, position)
        elif wire_type in (FIXED64, FIXED32):
            size = 8 if wire_type == FIXED64 else 4
        else:
            raise ValueError(f"not protobuf: wire type {wire_type}")
        if position + size > len(message):
            raise ValueError("cut short")
        yield key >> 3, message[position : position + size]
        position += size


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            raise ValueError("cut short")
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("not protobuf: endless number")
