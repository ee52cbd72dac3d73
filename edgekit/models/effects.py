"""What a SavedModel would do besides computing, read from the file before TensorFlow runs any of it. Needs TensorFlow."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from edgekit.errors import ModelFormatError
from edgekit.models import saved_models

# Ops that TensorFlow calls stateless and that read files, call back, or run what they hold all the same.
_REACHING = re.compile(r"CustomCall|Dataset|^Debug|Fil(e|espec)|PyFunc|^Reader|Remote|Rpc|^Shard|Snapshot|Sql|Summary|TPU")
# Ops with state that keep it inside the model.
_KEEPING = re.compile(
    r"(Stateful)?PartitionedCall|If|While|Case|Assert|NoOp|Placeholder\w*|Arg|Retval|_Arg|_Retval"
    r"|Var(HandleOp|IsInitializedOp)|(Read|Assign(Add|Sub)?|Destroy)(Variable|Resource)Op|DestroyResourceOp|Variable(V2)?"
    r"|Resource(Gather(Nd)?|Scatter\w+|StridedSliceAssign)|RestoreV2"
    r"|(Mutable)?(Dense)?HashTable(OfTensors)?(V2)?|AnonymousHashTable|InitializeTable(V2)?|LookupTable(Find|Import|Insert|Size)(V2)?"
    r"|Random\w+|Multinomial|TruncatedNormal|ParameterizedTruncatedNormal|StatelessRandom\w+|RngSkip|RngReadAndSkip|Stateful\w*(Uniform|Normal)\w*"
    r"|TensorArray\w*|TensorList\w*|Stack\w*V2"
)


def refuse_effects(source: Path) -> None:
    """Raise `ModelFormatError` for a SavedModel folder that, loaded or run, would call anything but ops that compute.

    Looked at is all that its signatures, its functions and its initialization reach; what saves the model again is not run."""
    stateful = _stateful()
    for graph in saved_models.read(source).meta_graphs:
        for op in _reached(graph):
            if op not in stateful or (stateful[op] and not _KEEPING.fullmatch(op)) or _REACHING.search(op):
                raise ModelFormatError(
                    f"{source}: calls {op}, which is not known to compute and do nothing else, so edgekit does not load it; "
                    "export the model without it"
                )


@cache
def _stateful() -> Mapping[str, bool]:
    """Whether an op has state, for each op that TensorFlow has."""
    from tensorflow.core.framework import op_def_pb2
    from tensorflow.python.client import pywrap_tf_session

    ops = op_def_pb2.OpList()
    ops.ParseFromString(pywrap_tf_session.TF_GetBuffer(pywrap_tf_session.TF_GetAllOpList()))
    return {op.name: op.is_stateful for op in ops.op}


def _reached(graph: Any) -> Iterator[str]:
    """The ops that loading or running the graph reaches, each once."""
    functions = {function.signature.name: function for function in graph.graph_def.library.function}
    nodes = {node.name: node for node in graph.graph_def.node}
    pending = [_node(name) for name in _ends(graph)]
    called: list[str] = [*graph.object_graph_def.concrete_functions]
    seen: set[str] = set()
    ops: dict[str, None] = {}

    def note(node: Any) -> None:
        # An op may be a function by its own name, too.
        for name in (node.op, *_functions(node.attr.values())):
            called.append(name)
        if node.op not in functions:
            ops[node.op] = None

    while pending:
        if (name := pending.pop()) in nodes and name not in seen:
            seen.add(name)
            note(nodes[name])
            pending += [_node(given) for given in nodes[name].input]
    run: set[str] = set()
    gradients = defaultdict(list)
    for gradient in graph.graph_def.library.gradient:
        gradients[gradient.function_name].append(gradient.gradient_func)
    while called:
        if (name := called.pop()) in functions and name not in run:
            run.add(name)
            called += gradients[name]
            for node in functions[name].node_def:
                note(node)
    yield from ops


def _ends(graph: Any) -> Iterator[str]:
    """Names of the tensors and nodes that loading or running a graph asks for."""
    for signature in graph.signature_def.values():
        yield from (tensor.name for tensor in signature.outputs.values())
        yield from (part.name for tensor in signature.outputs.values() for part in tensor.composite_tensor.components)
    for key in ("saved_model_main_op", "legacy_init_op", "table_initializer"):
        if key in graph.collection_def:
            yield from graph.collection_def[key].node_list.value
    yield graph.saver_def.restore_op_name


def _node(tensor: str) -> str:
    """The node that gives a tensor, or that must have run, by what refers to it."""
    return tensor.removeprefix("^").split(":")[0]


def _functions(attributes: Iterable[Any]) -> Iterator[str]:
    for attribute in attributes:
        yield from (function.name for function in (attribute.func, *attribute.list.func) if function.name)
