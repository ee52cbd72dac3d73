"""Op versions that a quantized file states: ai-edge-quantizer changes tensors and leaves the versions as they were."""

from pathlib import Path

from edgekit.tflite import flatbuffer
from edgekit.tflite.op_versions import requirements
from edgekit.tflite.tree import load, opcodes, write


def state_versions(path: Path) -> None:
    """Raise the op versions of the file to what its tensors need, so that older runtimes refuse it; not above 2 GB."""
    content = path.read_bytes()
    short = [op for op in requirements(flatbuffer.parse(content, str(path))).ops if op.needed > op.stated]
    root = load(content) if short else None
    if root is None:
        return
    codes = [(op, root.operatorCodes[index]) for op in short for index in opcodes(root, op.name)]
    for op, code in [(op, code) for op, code in codes if code.version == op.stated]:
        code.version = max(code.version, op.needed)
    write(root, path)
