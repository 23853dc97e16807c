"""An ensemble as one ONNX graph: the members' graphs share inputs, and their logits are mixed."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

from nightbid.models.ensemble import TINY, Ensemble
from nightbid.models.folder import PROBABILITY as OUTPUT
from nightbid.models.predict import FittedModel
from nightbid.serving.tree_graph import OPSET, calibration_nodes


def write_ensemble_onnx(
    model: Ensemble, path: Path, write: Callable[[FittedModel, Path], None]
) -> None:
    """Write an ensemble as one graph.

    Args:
        model: Ensemble to write.
        path: File for the graph.
        write: Function that writes a member's own graph.
    """
    nodes: list[Any] = []
    constants: list[Any] = []
    inputs: dict[str, Any] = {}
    opsets: dict[str, int] = {"": OPSET}
    mixed = []
    for number, (name, member) in enumerate(model.members.items()):
        with tempfile.TemporaryDirectory(prefix="nightbid-onnx-") as folder:
            write(member, Path(folder) / "model.onnx")
            proto = onnx.load(Path(folder) / "model.onnx")
        for opset in proto.opset_import:
            opsets[opset.domain] = max(opsets.get(opset.domain, 0), opset.version)
        for graph_input in proto.graph.input:
            inputs.setdefault(graph_input.name, graph_input)
        _rename(proto.graph, {graph_input.name for graph_input in proto.graph.input}, f"m{number}/")
        nodes += proto.graph.node
        constants += proto.graph.initializer
        prefix = f"m{number}"
        weight = helper.make_tensor(
            f"{prefix}/weight", TensorProto.FLOAT, [1], [model.weights[name]]
        )
        constants.append(weight)
        nodes += [
            helper.make_node("Clip", [f"{prefix}/{OUTPUT}", "least", "most"], [f"{prefix}/p"]),
            helper.make_node("Sub", ["unit", f"{prefix}/p"], [f"{prefix}/q"]),
            helper.make_node("Log", [f"{prefix}/p"], [f"{prefix}/log_p"]),
            helper.make_node("Log", [f"{prefix}/q"], [f"{prefix}/log_q"]),
            helper.make_node("Sub", [f"{prefix}/log_p", f"{prefix}/log_q"], [f"{prefix}/z"]),
            helper.make_node("Mul", [f"{prefix}/z", f"{prefix}/weight"], [f"{prefix}/part"]),
        ]
        mixed.append(f"{prefix}/part")
    steps, fitted = calibration_nodes(model.card.calibration)
    constants += [
        *fitted,
        helper.make_tensor("least", TensorProto.FLOAT, [], [TINY]),
        helper.make_tensor("most", TensorProto.FLOAT, [], [1 - TINY]),
        helper.make_tensor("unit", TensorProto.FLOAT, [1], [1.0]),
        helper.make_tensor("column", TensorProto.INT64, [2], [-1, 1]),
        helper.make_tensor("flat", TensorProto.INT64, [1], [-1]),
    ]
    nodes += [
        helper.make_node("Sum", mixed, ["mixed"]),
        helper.make_node("Reshape", ["mixed", "column"], ["logit"]),
        *steps,
        helper.make_node("Sigmoid", ["calibrated"], ["probabilities"]),
        helper.make_node("Reshape", ["probabilities", "flat"], [OUTPUT]),
    ]
    output = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["rows"])
    graph = helper.make_graph(nodes, "ensemble", list(inputs.values()), [output], constants)
    proto = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid(name, version) for name, version in opsets.items()],
        ir_version=8,
    )
    onnx.checker.check_model(proto)
    path.write_bytes(proto.SerializeToString(deterministic=True))


def _rename(graph: Any, inputs: set[str], prefix: str) -> None:
    """Prefix all names except the inputs, so that members' names are unique."""

    def own(name: str) -> str:
        return name if not name or name in inputs else f"{prefix}{name}"

    for node in graph.node:
        node.name = f"{prefix}{node.name}" if node.name else ""
        for values in (node.input, node.output):
            values[:] = [own(name) for name in values]
    for constant in graph.initializer:
        constant.name = own(constant.name)
