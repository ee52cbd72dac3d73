"""Names and types of a model's signature as Kotlin has them."""

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from edgekit.errors import ModelFormatError
from edgekit.spec import TensorSpec

# Kotlin's keywords, and what the templates call their own variables and classes.
_TAKEN = re.compile(
    "it|value|values|top|powers|sum|size|labels|interpreter|model|case|bitmap|run|classify|"
    "Accelerator|Bitmap|ByteBuffer|ByteOrder|CompiledModel|Context|FileChannel|FileInputStream|Interpreter|"
    "as|break|class|continue|do|else|false|for|fun|if|in|interface|is|null|object|package|return|super|this|throw|true|try|"
    "typealias|typeof|val|var|when|while"
)


@dataclass(frozen=True)
class Dtype:
    """An element in Kotlin: `array` holds it, `view` of a ByteBuffer writes it, `get` reads it; `tensor` is TensorBuffer's name."""

    array: str
    view: str
    get: str
    bytes: int
    tensor: str = ""
    unsigned: bool = False


DTYPES = {
    "float32": Dtype("FloatArray", "asFloatBuffer()", "getFloat", 4, "Float"),
    "int64": Dtype("LongArray", "asLongBuffer()", "getLong", 8),
    "int32": Dtype("IntArray", "asIntBuffer()", "getInt", 4, "Int"),
    "int16": Dtype("ShortArray", "asShortBuffer()", "getShort", 2),
    "int8": Dtype("ByteArray", "duplicate()", "get", 1, "Int8"),
    "uint8": Dtype("ByteArray", "duplicate()", "get", 1, unsigned=True),
    "bool": Dtype("ByteArray", "duplicate()", "get", 1),
}


@dataclass(frozen=True)
class Tensor:
    """An input or output; `variable` is what Kotlin calls it, free axes count as 1."""

    name: str
    variable: str
    dtype: str
    kind: Dtype
    shape: tuple[int, ...]
    size: int
    scale: float | None
    zero_point: int


def tensors(specs: Iterable[TensorSpec], path: str) -> list[Tensor]:
    """`specs` for the templates. Raises `ModelFormatError` for a dtype that Kotlin's arrays do not hold."""
    by_variable: dict[str, Tensor] = {}
    for spec in specs:
        if spec.dtype not in DTYPES:
            raise ModelFormatError(
                f"{path}: {spec.name} is {spec.dtype}, which Kotlin has no array for; convert it to float32, int8 or uint8"
            )
        shape = tuple(1 if size < 0 else size for size in spec.shape)
        variable = identifier(spec.name, upper=False)
        while variable in by_variable:
            variable += "_"
        kind, scale = DTYPES[spec.dtype], spec.scale or None
        by_variable[variable] = Tensor(spec.name, variable, spec.dtype, kind, shape, math.prod(shape), scale, spec.zero_point or 0)
    return list(by_variable.values())


def identifier(name: str, *, upper: bool) -> str:
    """`name` in camel case with letters and digits, none that is taken; a class name begins with an upper-case letter."""
    words = [word for word in re.split(r"[^A-Za-z0-9]+", name) if word] or ["tensor"]
    joined = words[0] + "".join(word[0].upper() + word[1:] for word in words[1:])
    joined = (joined[0].upper() if upper else joined[0].lower()) + joined[1:]
    if joined[0].isdigit():
        joined = ("Model" if upper else "tensor") + joined
    return f"{joined}_" if _TAKEN.fullmatch(joined) else joined


def literal(text: str) -> str:
    """`text` as a Kotlin string literal."""
    # Kotlin has no \f, and $ begins a template.
    return json.dumps(text.replace("\f", " ")).replace("$", "\\$")
