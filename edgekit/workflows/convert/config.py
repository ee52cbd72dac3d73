"""What a conversion is told."""

import enum
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgekit.data.representative import COUNT, MINIMUM
from edgekit.errors import ConfigError
from edgekit.spec import DataSpec
from edgekit.stages.quantize import schemes
from edgekit.stages.quantize.schemes import CALIBRATIONS, MINMAX, SCHEMES, SEARCH_SECONDS
from edgekit.system import settings
from edgekit.system.settings import Bounds, at_least, check, setting, share

# Rows that each file is judged on where the user names none: never those that calibration saw.
HELD_OUT = 200
MAX_LENGTH = 64
MOST_BATCH = 256
_NO_FREE_BATCH = "edgekit writes files of fixed sizes alone, which its integers rest on"
_DTYPES = ("float32", "int8", "uint8")
_SEARCH = Bounds(at_least(0).hold, "0 for no search, or a number of seconds")


class Bridge(enum.StrEnum):
    """The road to TensorFlow Lite: from ONNX by onnx2tf 2, from a checkpoint by litert-torch, or through a SavedModel.

    AUTO takes the first that is installed and leads there."""

    AUTO = "auto"
    DIRECT = "direct"
    LITERT = "litert"
    TF = "tf"


@dataclass(frozen=True)
class ConvertConfig:
    """What `convert` is told, beside what each field says of itself.

    `max_drop` is a proportion of the task's metric against float32, without labels of other decisions; None judges nothing.
    `plan` is a manifest that edgekit wrote for the same source. With `every_op` each op that has an integer form takes it, whatever
    that does to the outputs: for weights that mean nothing."""

    schemes: tuple[str, ...] = setting(
        ("float32", "float16", "dynamic"), "Repeats.", option="--scheme", choices=(*SCHEMES, "all"), required=True
    )
    task: str | None = settings.task()
    data: DataSpec | None = setting(None, "Rows to calibrate on: {data}.", option="--representative-data")
    representative_samples: int = setting(COUNT, "How many of them, drawn with the seed.", at_least(MINIMUM))
    evaluation_data: DataSpec | None = setting(None, "Rows to judge on; left out, others of the representative data.")
    evaluation_samples: int = setting(HELD_OUT, "How many of them, drawn with the seed.", at_least(1))
    max_length: int = setting(MAX_LENGTH, "Tokens of an input.", at_least(1))
    sequence_lengths: tuple[int, ...] = setting(
        (), "A signature for each of these lengths, over the same weights.", metavar="16,32,64,128"
    )
    batch_sizes: tuple[int, ...] = setting(
        (), "Texts of an inference; of several, a signature for each over the same weights.", option="--batch-size", metavar="1,4,8"
    )
    max_drop: float | None = settings.max_drop()
    min_db: float | None = settings.min_db()
    min_cosine: float | None = settings.min_cosine()
    bridge: Bridge = setting(Bridge.AUTO, "Road to TensorFlow Lite; the next one is taken where auto's first fails.")
    inputs: str = setting("float32", "Of an int8 file.", choices=_DTYPES)
    outputs: str = setting("float32", "Of an int8 file.", choices=_DTYPES)
    integer_only: bool = setting(False, "int8 without a float op, for accelerators; token ids stay integers.")
    mediapipe: bool = setting(False, "Inputs and scores as MediaPipe's TextClassifier and ImageClassifier take them.")
    labels: Path | None = setting(None, "Labels of an image classifier, one a line; left out, the data's.")
    score_threshold: float | None = setting(None, "Least probability worth telling, for the file's metadata.", share(0.5))
    search_seconds: float = setting(SEARCH_SECONDS, "Time for the search of an int8 plan; 0 searches for none.", _SEARCH)
    plan: Path | None = setting(None, "The .json beside an int8 file: its plan is used again.")
    every_op: bool = False
    calibration: str = setting(MINMAX, "Ranges of int8 values.", choices=CALIBRATIONS)
    input_shapes: Mapping[str, tuple[int, ...]] = settings.input_shapes()
    input_values: Mapping[str, tuple[float, ...]] = settings.input_values()
    mean: tuple[float, ...] | None = settings.mean()
    std: tuple[float, ...] | None = settings.std()
    threads: int = settings.threads()
    seed: int = settings.seed()

    def __post_init__(self) -> None:
        if not self.schemes:
            raise ConfigError(f"schemes is empty; choose from {', '.join(SCHEMES)} or all")
        chosen = schemes.select(self.schemes)
        check(self)
        if self.sequence_lengths:
            self._check_lengths()
        if self.batch_sizes:
            self._check_batches()
        if self.mediapipe and self.outputs == "int8":
            raise ConfigError("outputs is int8; MediaPipe takes float32 or uint8 scores")
        if self.int8_settings and any(scheme.activations != "int8" for scheme in chosen):
            raise ConfigError(f"{self.int8_settings[0]}: changes int8 files only; give the scheme int8 alone with it")

    @property
    def int8_settings(self) -> tuple[str, ...]:
        """What is set that only changes int8 files."""
        is_set = {
            "inputs and outputs": (self.inputs, self.outputs) != ("float32", "float32"),
            "integer_only": self.integer_only,
            "plan": self.plan is not None,
        }
        return tuple(what for what, changes in is_set.items() if changes)

    @property
    def batch(self) -> int:
        """Texts that one inference takes, the most of several."""
        return max(self.batch_sizes, default=1)

    def _check_batches(self) -> None:
        listed = ",".join(map(str, self.batch_sizes))
        if 0 in self.batch_sizes:
            raise ConfigError(f"batch_sizes {listed}: {_NO_FREE_BATCH}; give the sizes that you need, such as 1,4,8")
        if any(batch < 1 for batch in self.batch_sizes):
            raise ConfigError(f"batch_sizes {listed}: counts the texts of an inference; give numbers from 1, such as 1,4,8")
        if any(one >= two for one, two in itertools.pairwise(self.batch_sizes)):
            raise ConfigError(f"batch_sizes {listed}: give each size once, the smallest first, such as 1,4,8")
        if self.batch > MOST_BATCH:
            raise ConfigError(f"batch_sizes {listed}: {self.batch} texts at once are more than {MOST_BATCH}; give fewer")
        if self.batch == 1:
            return
        if self.sequence_lengths:
            raise ConfigError(f"batch_sizes {listed}: goes with one length alone; leave sequence_lengths out (--sequence-lengths)")
        if self.mediapipe:
            raise ConfigError("mediapipe: MediaPipe feeds one text at a time; leave batch_sizes out (--batch-size)")
        if self.integer_only:
            raise ConfigError("integer_only: rewrites the graph for one text at a time; leave batch_sizes out (--batch-size)")

    def _check_lengths(self) -> None:
        listed = ",".join(map(str, self.sequence_lengths))
        if any(length < 1 for length in self.sequence_lengths):
            raise ConfigError(f"sequence_lengths {listed}: a length counts tokens; give numbers from 1, such as 16,32,64,128")
        if len(self.sequence_lengths) < 2:
            raise ConfigError(f"sequence_lengths {listed}: is one length alone; give two or more, or --max-length {listed}")
        if any(one >= two for one, two in itertools.pairwise(self.sequence_lengths)):
            raise ConfigError(f"sequence_lengths {listed}: give each length once, the shortest first, such as 16,32,64,128")
        if self.mediapipe:
            raise ConfigError("mediapipe: MediaPipe takes files with one subgraph; leave sequence_lengths out (--sequence-lengths)")
        if self.integer_only:
            raise ConfigError("integer_only: rewrites the graph for one length; leave sequence_lengths out (--sequence-lengths)")
        if self.max_length not in (MAX_LENGTH, self.sequence_lengths[-1]):
            raise ConfigError(
                f"max_length is {self.max_length}, but the longest of sequence_lengths is {self.sequence_lengths[-1]}; leave it out"
            )
        object.__setattr__(self, "max_length", self.sequence_lengths[-1])
