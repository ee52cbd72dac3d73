"""Children forked from processes that have loaded what they need: hundreds of them would spend seconds each on imports.

What they run and how they end is the same; that a child starts from nothing, the tests that call the command line see to.
"""

import atexit
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from edgekit.system import worker
from edgekit.system.forkserver import Forked, ForkServer

# What is loaded, and the functions that want it by the beginning of their names.
_LOADED = {
    "torch transformers.models.bert.modeling_bert transformers.models.auto.modeling_auto edgekit.models.weights": """
        data.checkpoint_tokenizer. stages.train. stages.prune. stages.export.onnx. stages.export.torchscript. stages.export.litert.
        stages.export.compact. tests.unit.data.tokenizers.
        tests.tiny. tests.unit.tasks. tests.unit.models. tests.unit.stages.train. tests.unit.stages.prune.
        tests.unit.stages.export.architectures.save_ tests.unit.stages.export.architectures.to_onnx
        tests.unit.stages.export.architectures.ranges tests.unit.stages.export.architectures.layer_outputs
        tests.unit.classifiers. tests.integration.test_tasks. tests.integration.test_prune.prune_each
        tests.integration.sources.write_programs tests.integration.test_export.prune tests.integration.test_compare.traced
    """,
    "tensorflow tf_keras onnx2tf": """
        stages.keras. stages.export.saved_model. stages.quantize.converter. tests.unit.stages.keras.
        tests.unit.stages.export.graphs. tests.unit.stages.export.architectures.to_tflite tests.integration.sources.write_
        tests.integration.test_prune.convert_each tests.integration.test_export.serve tests.integration.test_advise.
        tests.integration.test_diagnose.
    """,
    "ai_edge_litert.interpreter ai_edge_quantizer.quantizer edgekit.workflows.convert.conversion": """
        stages. tasks. models. workflows.
    """,
}
# The worker's own variables, pytest's, which change from test to test, and what scikit-learn and the quantizer set in this process.
_OWN = ("TMPDIR", worker.PROGRESS_FD, "PYTEST_", "KMP_", "TQDM_")


def install() -> None:
    """From now on `Worker.run` of this process forks the children of `_LOADED`."""
    start, environment = worker.start, {**os.environ, **worker._QUIET}
    loaded_with = _shared(environment)
    servers = [(_server(modules.split(), environment), tuple(names.split())) for modules, names in _LOADED.items()]

    def forked(
        name: str, module: str, job: Path, env: Mapping[str, str], log: IO[bytes], progress: int, python: Path | None
    ) -> subprocess.Popen[bytes] | Forked:
        # A name may begin with the file that the child works on.
        function = name.rpartition(": ")[2]
        server = next((server for server, names in servers if function.startswith(names)), None)
        if server is None or python is not None or _shared(env) != loaded_with:
            return start(name, module, job, env, log, progress, python)
        return server.start(job, [name, worker.places(job)], env, log.fileno(), progress, [])

    worker.start = forked


def _server(modules: list[str], env: Mapping[str, str]) -> ForkServer:
    server = ForkServer(env)
    server.load(modules)
    atexit.register(server.close)
    return server


def _shared(env: Mapping[str, str]) -> dict[str, str]:
    """What a library may have read when it was loaded."""
    return {name: value for name, value in env.items() if not name.startswith(_OWN)}
