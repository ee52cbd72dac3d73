"""One exception tree; the class decides the exit code.

EdgekitError
├── ConfigError          2  a wrong option, recipe or combination of them
├── InputError           3  something the user handed in
│   ├── CheckpointError       a checkpoint folder or hub id
│   ├── DatasetError          rows, columns, labels
│   ├── CalibrationError      a representative data set
│   └── ModelFormatError      an .onnx, SavedModel, Keras, .pt2 or .tflite file
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

import contextlib
import errno
import re
import textwrap
from collections.abc import Iterator

# What the system says when bytes have no room: disk full, over quota, file larger than allowed.
DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

# C0 without tab and line feed, DEL and C1, and what turns the direction of all that follows.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


# Colours, and where TensorFlow goes on about names that it gave itself.
_INWARD = re.compile(r"\x1b\[[\d;]*m| for '\{\{node.*|\{\{.*?\}\} | \[Op:.*| Call arguments received by.*")


def one_line(error: BaseException) -> str:
    """A library's own words up to 200 characters, or its error's class where it says nothing, for a message of ours."""
    words = _INWARD.sub("", " ".join(str(error).split()))
    return textwrap.shorten(words, 200, placeholder=" …") or type(error).__name__


def printable(text: str) -> str:
    """`text` with what a terminal obeys instead of showing it (escapes, other controls, turned directions) as `\\x1b`."""
    return _OBEYED.sub(lambda found: ascii(found[0])[1:-1], text)


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


@contextlib.contextmanager
def about(subject: object) -> Iterator[None]:
    """Let what goes wrong with a model inside the block name `subject`, the file that the user gave."""
    try:
        yield
    except (CheckpointError, ModelFormatError, ConversionError, WorkerError) as error:
        if str(subject) not in error.message:
            error.message = f"{subject}: {error.message}"
        raise


@contextlib.contextmanager
def thrown_as(kind: type[EdgekitError], message: str) -> Iterator[None]:
    """Raise what a library throws inside the block as `kind`, with its own words in place of `{}` in `message`.

    That is also its panics, which are no `Exception`, and recursion without end; ours, interrupts and exits pass."""
    try:
        yield
    except (EdgekitError, KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError):
        raise
    except BaseException as error:
        raise kind(message.replace("{}", one_line(error))) from error
