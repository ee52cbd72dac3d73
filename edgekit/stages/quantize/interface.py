"""Give a quantized .tflite integer inputs and outputs in place of float32 ones."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgekit.errors import ConfigError, UnsupportedOpError
from edgekit.spec import TensorSpec
from edgekit.tflite import flatbuffer, schema, tree
from edgekit.tflite.tree import listed

# What turns an int8 zero point into that of the same real values in uint8.
_UNSIGNED = 128
# On each side of a zero point of 0.
_INT16_STEPS, _INT8_STEPS = 32767, 127


def change_interface(path: Path, inputs: str, outputs: str) -> None:
    """Make the float32 inputs of `path`, in place, `inputs` and its float32 outputs `outputs`: float32, int8 or uint8.

    An int8 end takes over the tensor that the QUANTIZE op behind it gives; a uint8 one keeps an op that requantizes,
    and so does an end that the graph computes on in int16.
    Raises `ConfigError` if there is no float32 end to change, and `UnsupportedOpError` naming an end that the graph
    computes on in float32."""
    file = flatbuffer.read(path)
    entry = file.entry()
    signature = file.signature(entry)
    _require_float(inputs, signature.inputs, "--inputs")
    _require_float(outputs, signature.outputs, "--outputs")
    root = tree.load(path.read_bytes())
    if root is None:
        raise UnsupportedOpError(f"{path.name}: is above 2 GB; leave --inputs and --outputs out")
    ends = _Ends(root, entry.subgraph, path.name)
    changes = (inputs, entry.inputs, ends.change_input), (outputs, entry.outputs, ends.change_output)
    for dtype, tensors, change in changes:
        for name, index in tensors.items() if dtype != "float32" else ():
            if ends.graph.tensors[index].type == schema.TensorType.FLOAT32:
                change(name, index, dtype)
    tree.write(root, path)


def read_outputs(graph: flatbuffer.Subgraph) -> frozenset[str]:
    """Outputs of a graph that ops of it read as well."""
    inner = {index for operator in graph.operators for index in operator.inputs}
    return frozenset(graph.tensors[index].name for index in graph.outputs if index in inner)


def keep_outputs(root: Any, model: bytes, names: frozenset[str]) -> None:
    """Mend outputs of these names that ops read as well in a quantized tree of float32 `model`.

    ai-edge-quantizer 0.10 makes an output of the integers of a float one, and has integer ops read an integer one's float values.
    """
    file = flatbuffer.parse(model, "model")
    entry = file.entry()
    source, graph = file.subgraphs[entry.subgraph], root.subgraphs[entry.subgraph]
    places = {tree.text(tensor.name): index for index, tensor in enumerate(graph.tensors)}
    pairs = [(int(op.inputs[0]), int(op.outputs[0])) for op in graph.operators if tree.op_name(root, op) == "DEQUANTIZE"]
    floats = dict(pairs)
    ends = {name: floats.get(places[name], places[name]) for name in names if name in places}
    outputs = zip(source.outputs, map(int, graph.outputs), strict=True)
    graph.outputs = [ends.get(source.tensors[index].name, output) for index, output in outputs]
    for signature in listed(root.signatureDefs):
        if tree.text(signature.signatureKey) == entry.key:
            for item in signature.outputs:
                item.tensorIndex = ends.get(source.tensors[entry.outputs[tree.text(item.name)]].name, item.tensorIndex)
    integers = {real: own for own, real in pairs if real in ends.values()}
    kinds = (schema.TensorType.INT8, schema.TensorType.INT16)
    for operator in graph.operators:
        if tree.op_name(root, operator) != "QUANTIZE" and all(graph.tensors[index].type in kinds for index in operator.outputs):
            operator.inputs = [integers.get(int(index), int(index)) for index in operator.inputs]


def _require_float(dtype: str, specs: Sequence[TensorSpec], option: str) -> None:
    if dtype != "float32" and not any(spec.dtype == "float32" for spec in specs):
        kinds = ", ".join(f"{spec.name} is {spec.dtype}" for spec in specs)
        raise ConfigError(f"{option} {dtype}: the model has nothing there to quantize ({kinds}); leave {option} out")


class _Ends:
    def __init__(self, root: Any, subgraph: int, origin: str) -> None:
        self.root, self.subgraph, self.origin = root, subgraph, origin
        self.graph = root.subgraphs[subgraph]
        # From version 2 on QUANTIZE goes from one integer dtype to another as well.
        self.quantize = tree.opcode(root, "QUANTIZE", 2)
        self.dequantize = tree.opcode(root, "DEQUANTIZE", 2)

    def change_input(self, name: str, index: int, dtype: str) -> None:
        readers = [operator for operator in self.graph.operators if index in listed(operator.inputs)]
        stored = [int(operator.outputs[0]) for operator in readers if operator.opcodeIndex == self.quantize]
        narrow = [other for other in stored if self.graph.tensors[other].type == schema.TensorType.INT8]
        alike = {self._parameters(other) for other in narrow}
        if not stored or len(stored) != len(readers) or len(alike) > 1 or index in self.graph.outputs:
            raise self._refusal("--inputs", name)
        first = narrow[0] if narrow else self._narrowed(stored[0])
        # What goes on in int16 is made of the int8 values by its own QUANTIZE.
        dropped = [operator for operator in readers if operator.outputs[0] in narrow]
        self._drop(dropped, {index: first, **dict.fromkeys(narrow, first)})
        if dtype == "uint8":
            self._unsigned(index, first)
            self.graph.operators.insert(0, self._requantize(index, first))
        else:
            self.graph.inputs = [first if end == index else end for end in self.graph.inputs]
            self._sign(index, first)

    def change_output(self, name: str, index: int, dtype: str) -> None:
        writers = [operator for operator in self.graph.operators if index in listed(operator.outputs)]
        read = any(index in listed(operator.inputs) for operator in self.graph.operators)
        if len(writers) != 1 or writers[0].opcodeIndex != self.dequantize or read:
            raise self._refusal("--outputs", name)
        stored = int(writers[0].inputs[0])
        if self.graph.tensors[stored].type == schema.TensorType.INT16:
            narrow = self._narrowed(stored)
            self.graph.operators.insert(self.graph.operators.index(writers[0]), self._requantize(stored, narrow))
            writers[0].inputs, stored = [narrow], narrow
        if self.graph.tensors[stored].type != schema.TensorType.INT8:
            raise self._refusal("--outputs", name)
        if dtype == "uint8":
            self._unsigned(index, stored)
            writers[0].opcodeIndex = self.quantize
            writers[0].builtinOptions, writers[0].builtinOptionsType = None, schema.BuiltinOptions.NONE
        else:
            self.graph.outputs = [stored if end == index else end for end in self.graph.outputs]
            self._sign(index, stored)
            self._drop(writers, {})

    def _parameters(self, index: int) -> tuple[Any, ...]:
        tensor = self.graph.tensors[index]
        return tensor.type, tuple(listed(tensor.quantization.scale)), tuple(listed(tensor.quantization.zeroPoint))

    def _narrowed(self, index: int) -> int:
        """A new int8 tensor with the range of an int16 one."""
        tensor = copy.deepcopy(self.graph.tensors[index])
        tensor.name, tensor.type, tensor.buffer = tensor.name + b"_int8", schema.TensorType.INT8, 0
        scale = float(tensor.quantization.scale[0]) * _INT16_STEPS / _INT8_STEPS
        tensor.quantization = schema.QuantizationParametersT(scale=[scale], zeroPoint=[0])
        return tree.add_tensor(self.graph, tensor)

    def _requantize(self, source: int, target: int) -> Any:
        return schema.OperatorT(opcodeIndex=self.quantize, inputs=[source], outputs=[target])

    def _unsigned(self, index: int, stored: int) -> None:
        _, scale, zero = self._parameters(stored)
        tensor = self.graph.tensors[index]
        tensor.type = schema.TensorType.UINT8
        tensor.quantization = schema.QuantizationParametersT(scale=list(scale), zeroPoint=[zero[0] + _UNSIGNED])

    def _sign(self, old: int, new: int) -> None:
        for signature in listed(self.root.signatureDefs):
            if signature.subgraphIndex == self.subgraph:
                for entry in (*listed(signature.inputs), *listed(signature.outputs)):
                    entry.tensorIndex = new if entry.tensorIndex == old else entry.tensorIndex

    def _drop(self, operators: Sequence[Any], replaced: dict[int, int]) -> None:
        self.graph.operators = [operator for operator in self.graph.operators if operator not in operators]
        for operator in self.graph.operators:
            operator.inputs = [replaced.get(int(index), int(index)) for index in listed(operator.inputs)]

    def _refusal(self, option: str, name: str) -> UnsupportedOpError:
        return UnsupportedOpError(f"{self.origin}: {name} is computed on in float32; leave {option} (or --integer-only) out")
