"""The five schemes of the TensorFlow Lite optimization guide. To add one: an entry here and a row in the test."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from edgekit.errors import ConfigError

# Ways to choose the ranges of int8 activations; here, because the command line names them without loading anything.
MINMAX = "minmax"
CALIBRATIONS = (MINMAX, "percentile", "mse", "entropy")
# Time for the search of an int8 plan unless a user gives another.
SEARCH_SECONDS = 15.0


@dataclass(frozen=True)
class Scheme:
    """What a scheme stores and computes in, what it asks for, and what the guide promises of it.

    `activations` is None where the file leaves them in float32. The last three fields are the guide's own columns
    (https://ai.google.dev/edge/litert/models/model_optimization), stated, not measured; what runs integers alone takes no fallback.
    """

    name: str
    weights: str
    activations: str | None
    needs_data: bool
    technique: str
    expected_size: str
    hardware: str


SCHEMES: Mapping[str, Scheme] = MappingProxyType(
    {
        scheme.name: scheme
        for scheme in (
            Scheme("float32", "float32", None, False, "none (float32)", "1x", "CPU, GPU"),
            Scheme("float16", "float16", None, False, "post-training float16", "2x smaller", "CPU, GPU"),
            Scheme("dynamic", "int8", None, False, "post-training dynamic range", "4x smaller", "CPU"),
            Scheme(
                "int8",
                "int8",
                "int8",
                True,
                "post-training integer, float fallback",
                "4x smaller",
                "CPU; Edge TPU, MCU if integer-only",
            ),
            Scheme(
                "int16x8",
                "int8",
                "int16",
                True,
                "post-training int16 activations, int8 weights",
                "3-4x smaller",
                "CPU (reference kernels)",
            ),
        )
    }
)


def select(names: Iterable[str]) -> tuple[Scheme, ...]:
    """Schemes by name, in the order of `SCHEMES`; `all` is every one. Raises `ConfigError` for an unknown name."""
    wanted = set(names)
    if unknown := sorted(wanted - set(SCHEMES) - {"all"}):
        raise ConfigError(f"unknown scheme {', '.join(unknown)}; choose from {', '.join(SCHEMES)} or all")
    return tuple(scheme for scheme in SCHEMES.values() if "all" in wanted or scheme.name in wanted)
