"""One exception tree; the class decides the exit code.

EdgekitError
├── ConfigError          2  a wrong option, recipe or combination of them
├── InputError           3  something the user handed in
│   ├── CheckpointError       a checkpoint folder or hub id
│   ├── DatasetError          rows, columns, labels
│   ├── CalibrationError      a representative data set
│   └── ModelFormatError      an .onnx, SavedModel, .h5 or .tflite file
├── ConversionError      4  no file can be made from a sound input
│   ├── UnsupportedOpError    an op without a TFLite built-in
│   ├── ParityError           a hop changed the model's results
│   └── RefusedError          made, measured, and not good enough to publish
├── WorkerError          5  a child process failed
│   ├── WorkerCrashed         signal, sys.exit, or an unforeseen exception
│   ├── WorkerTimeout
│   └── WorkerOutOfMemory
└── OutputError          6  the result cannot be written

The message is one line: the file, the cause, what to try next. `detail` holds what `--debug` shows besides."""

import errno

# What the system says when bytes have no room: disk full, over quota, file larger than allowed.
DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def one_line(error: BaseException) -> str:
    """A library's own words, or its error's class where it says nothing, for a message of ours."""
    return " ".join(str(error).split())[:200] or type(error).__name__


class EdgekitError(Exception):
    """Root of every error that edgekit raises on purpose."""

    exit_code = 1

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(message, detail)
        self.message = " ".join(message.split())
        self.detail = detail

    def __str__(self) -> str:
        return self.message


class ConfigError(EdgekitError):
    exit_code = 2


class InputError(EdgekitError):
    exit_code = 3


class CheckpointError(InputError):
    pass


class DatasetError(InputError):
    pass


class CalibrationError(InputError):
    pass


class ModelFormatError(InputError):
    pass


class ConversionError(EdgekitError):
    exit_code = 4


class UnsupportedOpError(ConversionError):
    pass


class ParityError(ConversionError):
    pass


class RefusedError(ConversionError):
    pass


class WorkerError(EdgekitError):
    exit_code = 5


class WorkerCrashed(WorkerError):
    pass


class WorkerTimeout(WorkerError):
    pass


class WorkerOutOfMemory(WorkerError):
    pass


class OutputError(EdgekitError):
    exit_code = 6
