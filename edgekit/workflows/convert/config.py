"""What a conversion is told."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgekit.data.representative import COUNT, MINIMUM
from edgekit.errors import ConfigError
from edgekit.measure.judge import check_threads
from edgekit.spec import DatasetReference
from edgekit.stages.quantize import schemes
from edgekit.stages.quantize.calibrate import check_method
from edgekit.stages.quantize.schemes import MINMAX, SEARCH_SECONDS
from edgekit.workflows.convert import several_lengths
from edgekit.workflows.convert.bridge import Bridge

# Rows that each file is judged on where the user names none: never those that calibration saw.
HELD_OUT = 200
MAX_LENGTH = 64


@dataclass(frozen=True)
class ConvertConfig:
    """What `edgekit convert` is told.

    `max_length` counts tokens. `max_drop` is the accuracy (a proportion) that a scheme may lose against float32 on
    held-out rows before it is refused, or without labels the share of rows with another decision; None judges nothing.
    `sequence_lengths` gives a checkpoint's files a signature for each, in place of one for `max_length` tokens.
    `inputs` and `outputs` are the dtypes of an int8 file's float inputs and outputs, `integer_only` leaves no float op in it.
    Its plan is searched for in `search_seconds`, or taken from `plan`, a manifest that edgekit wrote for the same source;
    with `every_op` it is every op that has an integer form, whatever that does to its outputs: for weights that mean nothing.
    `calibration` is one of `schemes.CALIBRATIONS`. `mediapipe` gives classifiers the inputs and outputs of MediaPipe Tasks;
    `labels` is a text file with an image classifier's labels, `score_threshold` the least probability worth telling.
    `brings` are the schemes that need no data because the source has a file of its own for them, see `bridge.brings`.
    """

    schemes: tuple[str, ...] = ("float32", "float16", "dynamic")
    representative_data: DatasetReference | None = None
    representative_samples: int = COUNT
    evaluation_data: DatasetReference | None = None
    evaluation_samples: int = HELD_OUT
    max_length: int = MAX_LENGTH
    sequence_lengths: tuple[int, ...] = ()
    max_drop: float | None = 0.05
    bridge: Bridge = Bridge.ONNX
    inputs: str = "float32"
    outputs: str = "float32"
    integer_only: bool = False
    mediapipe: bool = False
    labels: Path | None = None
    score_threshold: float | None = None
    search_seconds: float = SEARCH_SECONDS
    plan: Path | None = None
    every_op: bool = False
    calibration: str = MINMAX
    input_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    threads: int = 2
    seed: int = 0
    brings: tuple[str, ...] = field(default=(), metadata={"told": False})

    def __post_init__(self) -> None:
        if not self.schemes:
            raise ConfigError(f"schemes is empty; choose from {', '.join(schemes.SCHEMES)} or all")
        chosen = schemes.select(self.schemes)
        needy = [scheme.name for scheme in chosen if scheme.needs_data and scheme.name not in self.brings]
        if needy and self.representative_data is None:
            raise ConfigError(
                f"scheme {' and '.join(needy)} calibrates on real samples; give representative_data (--representative-data D)"
            )
        for name, least in (("representative_samples", MINIMUM), ("evaluation_samples", 1), ("max_length", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; give at least {least}")
        check_method(self.calibration)
        check_threads(self.threads)
        if self.max_drop is not None and not 0 <= self.max_drop <= 1:
            raise ConfigError(f"max_drop is {self.max_drop:g}; give a proportion between 0 and 1, such as 0.01")
        if not 0 <= self.search_seconds < float("inf"):
            raise ConfigError(f"search_seconds is {self.search_seconds:g}; give 0 for no search, or a number of seconds")
        if self.score_threshold is not None and not 0 <= self.score_threshold <= 1:
            raise ConfigError(f"score_threshold is {self.score_threshold:g}; give a probability between 0 and 1, such as 0.5")
        if self.sequence_lengths:
            self._check_lengths()
        if self.mediapipe and self.outputs == "int8":
            raise ConfigError("outputs is int8; MediaPipe takes float32 or uint8 scores")
        for given, what in (
            ((self.inputs, self.outputs) != ("float32", "float32"), "inputs and outputs"),
            (self.integer_only, "integer_only"),
            (self.plan is not None, "plan"),
        ):
            if given and any(scheme.activations != "int8" for scheme in chosen):
                raise ConfigError(f"{what}: changes int8 files only; give the scheme int8 alone with it")
            if given and "int8" in self.brings:
                raise ConfigError(f"{what}: the model was trained quantization-aware and brings its int8 file; leave it out")

    def _check_lengths(self) -> None:
        several_lengths.check_lengths(self.sequence_lengths)
        if self.mediapipe:
            raise ConfigError("mediapipe: MediaPipe takes files with one subgraph; leave sequence_lengths out (--sequence-lengths)")
        if self.integer_only:
            raise ConfigError("integer_only: rewrites the graph for one length; leave sequence_lengths out (--sequence-lengths)")
        if self.max_length not in (MAX_LENGTH, self.sequence_lengths[-1]):
            raise ConfigError(
                f"max_length is {self.max_length}, but the longest of sequence_lengths is {self.sequence_lengths[-1]}; leave it out"
            )
        object.__setattr__(self, "max_length", self.sequence_lengths[-1])
