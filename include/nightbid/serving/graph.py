"""Export of TensorFlow models with one named input per feature: SavedModel and ONNX."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import tensorflow as tf

from nightbid.models.layout import Layout, weight_column, width
from nightbid.models.network import Network
from nightbid.schema import ModelInput

OPSET = 18
ROWS = "rows"
"""Name of the variable batch dimension in ONNX."""


def write_saved_model(network: Network, folder: Path) -> None:
    """Write a SavedModel with one input per feature in its signature `serving_default`."""
    holder = tf.Module()
    holder.network = network.model
    serve = tf.function(
        _serving(network), input_signature=signature(network.layout), autograph=False
    )
    tf.saved_model.save(holder, str(folder), signatures=serve.get_concrete_function())


def write_onnx(network: Network, path: Path) -> None:
    """Write the same graph, with the same inputs, as ONNX."""
    import tf2onnx

    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    # Otherwise it copies the graph with all tables before each of its optimizations.
    os.environ.setdefault("TF2ONNX_CATCH_ERRORS", "FALSE")
    inputs = signature(network.layout)
    serve = tf.function(_serving(network), input_signature=inputs, autograph=False)
    model, _ = tf2onnx.convert.from_function(serve, input_signature=inputs, opset=OPSET)
    _settle(model.graph)
    path.write_bytes(model.SerializeToString(deterministic=True))


def _settle(graph: Any) -> None:
    """Order the nodes by what they compute, number inner names in that order, and sort constants.

    The converter numbers constants and unknown dimensions depending on what the process did before,
    and the order of independent nodes varies. Without this, the same model would not give the same
    bytes.
    """
    for value in (*graph.input, *graph.output):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.HasField("dim_param"):
                dimension.dim_param = ROWS
    if any(
        attribute.HasField("g") or attribute.graphs
        for node in graph.node
        for attribute in node.attribute
    ):
        return  # Loops and branches use outer names; our own models contain none.
    ordered = _ordered(graph)
    del graph.node[:]
    graph.node.extend(ordered)
    fixed = {value.name for value in (*graph.input, *graph.output)}
    names: dict[str, str] = {}

    def renamed(name: str) -> str:
        if not name or name in fixed:
            return name
        return names.setdefault(name, f"v{len(names)}")

    for at, node in enumerate(graph.node):
        node.name = f"{node.op_type}_{at}"
        node.attribute.sort(key=lambda attribute: attribute.name)
        for values in (node.input, node.output):
            values[:] = [renamed(name) for name in values]
    for constant in graph.initializer:
        constant.name = renamed(constant.name)
    constants = sorted(graph.initializer, key=lambda constant: int(constant.name[1:]))
    del graph.initializer[:]
    graph.initializer.extend(constants)
    # The name and documentation contain such numbers too, and shapes refer to the old names.
    graph.name, graph.doc_string = "serve", ""
    del graph.value_info[:]


def _ordered(graph: Any) -> list[Any]:
    """List the nodes in depth-first order from the outputs, each after the nodes that feed it."""
    made_by = {name: node for node in graph.node for name in node.output}
    ordered: dict[int, Any] = {}
    waiting = [made_by[output.name] for output in reversed(graph.output) if output.name in made_by]
    while waiting:
        node = waiting[-1]
        needed = [made_by[name] for name in node.input if name in made_by]
        if missing := [source for source in needed if id(source) not in ordered]:
            waiting.extend(reversed(missing))
        else:
            ordered.setdefault(id(node), waiting.pop())
    return list(ordered.values())


def signature(layout: Layout) -> list[Any]:
    """Return shape, type and name of each served input; the weights of a bag follow the bag."""
    specs = []
    for model_input in layout.served:
        shape = [None] if model_input.kind in ("id", "float") else [None, model_input.length]
        dtype = tf.float32 if model_input.kind == "float" else tf.int32
        specs.append(tf.TensorSpec(shape, dtype, name=model_input.name))
        if model_input.kind == "bag":
            specs.append(tf.TensorSpec(shape, tf.float32, name=weight_column(model_input.name)))
    return specs


def _serving(network: Network) -> Any:
    layout = network.layout
    names = [spec.name for spec in signature(layout)]

    def serve(*columns: Any) -> dict[str, Any]:
        tensors = dict(zip(names, columns, strict=True))
        rows = tf.shape(columns[0])[0]

        def matrix(parts: list[Any], dtype: Any) -> Any:
            return tf.concat(parts, axis=1) if parts else tf.zeros([rows, 0], dtype)

        def column(model_input: ModelInput, dtype: Any) -> Any:
            if model_input.training_only:
                return tf.zeros([rows, width(model_input)], dtype)
            return tf.reshape(tensors[model_input.name], [-1, width(model_input)])

        ids = matrix([column(model_input, tf.int32) for model_input in layout.lookups], tf.int32)
        numbers = matrix(
            [column(model_input, tf.float32) for model_input in layout.numbers], tf.float32
        )
        weights = matrix([tensors[weight_column(name)] for name in layout.bag_places], tf.float32)
        return network.probabilities(ids, numbers, weights)

    return serve
