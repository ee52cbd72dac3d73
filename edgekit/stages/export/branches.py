"""`If` nodes of an ONNX graph: the branch that a constant condition takes, and the input that decides one otherwise."""

from collections.abc import Mapping
from typing import Any


def inline(model: Any) -> bool:
    """Put the branch taken in the place of each `If` of the top graph whose condition is constant; whether there was one."""
    from onnx import helper, numpy_helper

    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    constants |= {node.output[0]: attribute.t for node in graph.node for attribute in _values(node)}
    nodes: list[Any] = []
    inlined = False
    for number, node in enumerate(graph.node):
        condition = constants.get(node.input[0]) if node.op_type == "If" else None
        if condition is None:
            nodes.append(node)
            continue
        inlined = True
        taken = "then_branch" if numpy_helper.to_array(condition).ravel()[0] else "else_branch"
        branch = next(attribute.g for attribute in node.attribute if attribute.name == taken)
        defined = [*(tensor.name for tensor in branch.initializer), *(name for one in branch.node for name in one.output if name)]
        # Names may be those of another branch, but none of a graph around it.
        _rename(branch, {name: f"{node.name or node.op_type}_{number}/{name}" for name in defined})
        graph.initializer.extend(branch.initializer)
        ends = zip(branch.output, node.output, strict=True)
        nodes += [*branch.node, *(helper.make_node("Identity", [inner.name], [outer]) for inner, outer in ends)]
    if inlined:
        del graph.node[:]
        graph.node.extend(nodes)
    return inlined


def deciding_input(model: Any) -> str | None:
    """The input that alone decides an `If` of the top graph, where there is one."""
    producers = {name: node for node in model.graph.node for name in node.output}
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = {item.name for item in model.graph.input} - constants
    for condition in (node.input[0] for node in model.graph.node if node.op_type == "If"):
        names, waiting = {condition}, [condition]
        while waiting:
            node = producers.get(waiting.pop())
            before = {name for name in node.input if name} - names if node is not None else set()
            names |= before
            waiting += before
        if len(reached := names & inputs) == 1:
            return reached.pop()
    return None


def _values(node: Any) -> list[Any]:
    return [attribute for attribute in node.attribute if attribute.name == "value"] if node.op_type == "Constant" else []


def _rename(graph: Any, names: Mapping[str, str]) -> None:
    """Give what is called by one of `names` its new one, also in graphs inside."""
    for tensor in (*graph.initializer, *graph.output):
        tensor.name = names.get(tensor.name, tensor.name)
    for node in graph.node:
        for listed in (node.input, node.output):
            listed[:] = [names.get(name, name) for name in listed]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _rename(attribute.g, names)
