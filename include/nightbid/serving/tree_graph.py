"""Export of trees as ONNX with one named input per feature."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from nightbid.models.calibration import Calibration, Curve
from nightbid.models.layout import weight_column
from nightbid.models.trees import Trees, columns_of, is_small_list
from nightbid.schema import ModelInput

OPSET, TREE_OPSET = 18, 3


def write_tree_onnx(model: Trees, path: Path) -> None:
    """Write the trees with their inputs and their calibration."""
    layout = model.layout
    inputs: list[Any] = []
    nodes: list[Any] = []
    for model_input in layout.served:
        kind = TensorProto.FLOAT if model_input.kind == "float" else TensorProto.INT32
        shape: list[Any] = (
            ["rows"] if model_input.kind in ("id", "float") else ["rows", model_input.length]
        )
        inputs.append(helper.make_tensor_value_info(model_input.name, kind, shape))
        if model_input.kind == "bag":
            name = weight_column(model_input.name)
            inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        nodes += _column(model_input)
    # Training-only inputs are 0, for as many rows as the other inputs have.
    known = _name(next(iter(layout.served)))
    nodes.append(helper.make_node("Sub", [known, known], ["nothing"]))
    columns: list[str] = []
    for model_input in (*layout.lookups, *layout.numbers):
        columns += (
            ["nothing"] * columns_of(model_input)
            if model_input.training_only
            else [_name(model_input)]
        )
    steps, constants = calibration_nodes(model.card.calibration)
    constants += [
        _ids_of(model_input) for model_input in layout.served if is_small_list(model_input)
    ]
    constants += [
        _ints("last", [-1]),
        helper.make_tensor("zero", TensorProto.INT32, [], [0]),
        _ints("flat", [-1]),
        _ints("one", [1]),
        _ints("two", [2]),
    ]
    nodes += [
        helper.make_node("Concat", columns, ["matrix"], axis=1),
        TreeNodes.of(model).node("matrix", "logit"),
        *steps,
        *_mean_nodes(model),
        helper.make_node("Reshape", ["means", "flat"], [model.card.output]),
    ]
    if model.card.value is not None:
        constants.append(_floats("largest", [model.card.value.largest]))
    output = helper.make_tensor_value_info(model.card.output, TensorProto.FLOAT, ["rows"])
    graph = helper.make_graph(nodes, "trees", inputs, [output], constants)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", TREE_OPSET)]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.checker.check_model(proto)
    path.write_bytes(proto.SerializeToString(deterministic=True))


def _mean_nodes(model: Trees) -> list[Any]:
    """Return nodes from `calibrated` to `means`: probabilities, or exponentials of log means."""
    if model.card.value is None:
        return [helper.make_node("Sigmoid", ["calibrated"], ["means"])]
    return [
        helper.make_node("Min", ["calibrated", "largest"], ["bounded"]),
        helper.make_node("Exp", ["bounded"], ["means"]),
    ]


def _name(model_input: ModelInput) -> str:
    return f"{model_input.name}/column"


def _column(model_input: ModelInput) -> list[Any]:
    """Return nodes that convert an input to its columns of `tree_matrix`, [rows, columns]."""
    column = _name(model_input)
    if model_input.kind == "float":
        return [helper.make_node("Unsqueeze", [model_input.name, "last"], [column])]
    as_float = helper.make_node("Cast", [f"{column}/value"], [column], to=TensorProto.FLOAT)
    if model_input.kind == "id":
        return [
            helper.make_node("Unsqueeze", [model_input.name, "last"], [f"{column}/value"]),
            as_float,
        ]
    if is_small_list(model_input):
        # [rows, length, 1] against [ids]: whether any position of the row holds the id.
        return [
            helper.make_node("Unsqueeze", [model_input.name, "two"], [f"{column}/places"]),
            helper.make_node("Equal", [f"{column}/places", f"{column}/ids"], [f"{column}/equal"]),
            helper.make_node("Cast", [f"{column}/equal"], [f"{column}/ones"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMax", [f"{column}/ones", "one"], [column], keepdims=0),
        ]
    return [
        helper.make_node("Greater", [model_input.name, "zero"], [f"{column}/filled"]),
        helper.make_node("Cast", [f"{column}/filled"], [f"{column}/ones"], to=TensorProto.INT32),
        helper.make_node("ReduceSum", [f"{column}/ones", "one"], [f"{column}/value"], keepdims=1),
        as_float,
    ]


def _ids_of(model_input: ModelInput) -> Any:
    ids = list(range(1, model_input.size))
    return helper.make_tensor(f"{_name(model_input)}/ids", TensorProto.INT32, [len(ids)], ids)


def calibration_nodes(calibration: Calibration) -> tuple[list[Any], list[Any]]:
    """Return nodes from `logit` to `calibrated`, [rows, 1] both, and their constants.

    Offsets are looked up by the graph's own inputs.
    """
    curve = calibration.curve
    steps = ["calibrated", *(f"offset/{offset.input}/before" for offset in calibration.offsets)]
    curved = steps[-1]
    line = curved if curve is None else "line"
    nodes = [
        helper.make_node("Mul", ["logit", "slope"], ["steeper"]),
        helper.make_node("Add", ["steeper", "intercept"], [line]),
    ]
    constants = [
        _floats("slope", [calibration.slope]),
        _floats("intercept", [calibration.intercept]),
    ]
    if curve is not None:
        more, known = _curve_nodes(curve, curved)
        nodes, constants = nodes + more, constants + known
    for at in reversed(range(len(calibration.offsets))):
        offset = calibration.offsets[at]
        name = f"offset/{offset.input}"
        constants += [_floats(f"{name}/values", list(offset.values)), _ints(f"{name}/axis", [-1])]
        nodes += [
            helper.make_node("Gather", [f"{name}/values", offset.input], [f"{name}/row"]),
            helper.make_node("Unsqueeze", [f"{name}/row", f"{name}/axis"], [f"{name}/column"]),
            helper.make_node("Add", [steps[at + 1], f"{name}/column"], [steps[at]]),
        ]
    return nodes, constants


def _curve_nodes(curve: Curve, result: str) -> tuple[list[Any], list[Any]]:
    """Return nodes from `line` to `result`, [rows, 1] both, and their constants."""
    constants = [
        _floats("nil", [0.0]),
        _floats("starts", curve.starts.tolist()),
        _floats("widths", curve.widths.tolist()),
        helper.make_tensor("rises", TensorProto.FLOAT, [len(curve.rises), 1], curve.rises.tolist()),
        _floats("first", [curve.first]),
        _floats("highest", [curve.last]),
        _floats("lowest", [curve.lowest]),
    ]
    nodes = [
        helper.make_node("Sub", ["line", "starts"], ["beyond"]),
        helper.make_node("Max", ["beyond", "nil"], ["risen"]),
        helper.make_node("Min", ["risen", "widths"], ["pieces"]),
        helper.make_node("MatMul", ["pieces", "rises"], ["inside"]),
        helper.make_node("Sub", ["line", "first"], ["under"]),
        helper.make_node("Min", ["under", "nil"], ["below"]),
        helper.make_node("Sub", ["line", "highest"], ["over"]),
        helper.make_node("Max", ["over", "nil"], ["above"]),
        helper.make_node("Sum", ["inside", "below", "above", "lowest"], [result]),
    ]
    return nodes, constants


def _floats(name: str, values: list[float]) -> Any:
    return helper.make_tensor(name, TensorProto.FLOAT, [len(values)], values)


def _ints(name: str, values: list[int]) -> Any:
    return helper.make_tensor(name, TensorProto.INT64, [len(values)], values)


@dataclass
class TreeNodes:
    """Nodes of all trees, as attributes of ONNX's TreeEnsembleRegressor."""

    trees: list[int] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)
    modes: list[str] = field(default_factory=list)
    thresholds: list[float] = field(default_factory=list)
    if_true: list[int] = field(default_factory=list)
    if_false: list[int] = field(default_factory=list)
    leaf_trees: list[int] = field(default_factory=list)
    leaf_ids: list[int] = field(default_factory=list)
    leaf_values: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, model: Trees) -> TreeNodes:
        """Read the trees of a booster."""
        dumped = model.booster.dump_model(num_iteration=model.booster.best_iteration)
        ensemble = cls()
        for number, tree in enumerate(dumped["tree_info"]):
            ensemble._add(number, tree["tree_structure"])
        return ensemble

    def _add(self, tree: int, root: dict[str, Any]) -> None:
        waiting, count = [(root, 0)], 1
        while waiting:
            node, number = waiting.pop()
            leaf = "leaf_value" in node
            self.trees.append(tree)
            self.ids.append(number)
            self.modes.append("LEAF" if leaf else "BRANCH_LEQ")
            self.inputs.append(0 if leaf else int(node["split_feature"]))
            self.thresholds.append(0.0 if leaf else below(float(node["threshold"])))
            self.if_true.append(0 if leaf else count)
            self.if_false.append(0 if leaf else count + 1)
            if leaf:
                self.leaf_trees.append(tree)
                self.leaf_ids.append(number)
                self.leaf_values.append(float(node["leaf_value"]))
            else:
                waiting += [(node["left_child"], count), (node["right_child"], count + 1)]
                count += 2

    def node(self, matrix: str, output: str) -> Any:
        """Create the ONNX operator; [rows, inputs] to [rows, 1]."""
        return helper.make_node(
            "TreeEnsembleRegressor",
            [matrix],
            [output],
            domain="ai.onnx.ml",
            n_targets=1,
            nodes_treeids=self.trees,
            nodes_nodeids=self.ids,
            nodes_featureids=self.inputs,
            nodes_modes=self.modes,
            nodes_values=self.thresholds,
            nodes_truenodeids=self.if_true,
            nodes_falsenodeids=self.if_false,
            target_treeids=self.leaf_trees,
            target_nodeids=self.leaf_ids,
            target_ids=[0] * len(self.leaf_ids),
            target_weights=self.leaf_values,
        )


def below(threshold: float) -> float:
    """Return the largest float32 not above a float64: float32 inputs compare alike with both."""
    near = np.float32(threshold)
    return float(np.nextafter(near, np.float32(-np.inf)) if float(near) > threshold else near)
