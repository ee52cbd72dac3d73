"""The figures that the TF Lite guide publishes, Tables 1 and 2.

Source: "Model optimization", https://ai.google.dev/edge/litert/models/model_optimization. Latency is that of one
inference on a single big core of a Pixel 2.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

SOURCE = "https://ai.google.dev/edge/litert/models/model_optimization"
DEVICE = "Pixel 2, one big core"
# The guide's figures came with TensorFlow 1.x and 2.x converters of these years.
YEARS = "2018 to 2021"

# What the columns of each table are called here; "qat" is int8 after quantization-aware training.
COLUMNS: Mapping[int, tuple[str, ...]] = MappingProxyType(
    {1: ("float32", "int8", "qat"), 2: ("float32", "int8", "int16x8")},
)


@dataclass(frozen=True)
class Metric:
    """One quality figure by scheme, in the guide's own unit: `unit` is "%" for per cent or empty for a share of 1."""

    name: str
    unit: str
    values: Mapping[str, float]
    higher_is_better: bool = True


@dataclass(frozen=True)
class Published:
    """One row of the guide; `name` is what `--models` takes, `title` how the guide writes it.

    All mappings are by scheme; a scheme without a figure is one for which the guide gives none. Sizes are in MB of 10^6 bytes.
    """

    name: str
    title: str
    metrics: tuple[Metric, ...]
    latency_ms: Mapping[str, float] = field(default_factory=dict)
    size_mb: Mapping[str, float] = field(default_factory=dict)


def _classifier(name: str, title: str, top1: Mapping[str, float], ms: Mapping[str, float], mb: Mapping[str, float]) -> Published:
    return Published(name, title, (Metric("top-1", "", top1),), ms, mb)


def _quality(
    name: str, title: str, metric: str, unit: str, figures: tuple[float, float, float], *, higher_is_better: bool = True
) -> Published:
    return Published(name, title, (_metric(metric, unit, figures, higher_is_better=higher_is_better),))


def _metric(name: str, unit: str, figures: tuple[float, float, float], *, higher_is_better: bool = True) -> Metric:
    return Metric(name, unit, dict(zip(COLUMNS[2], figures, strict=True)), higher_is_better)


# One column of sizes stands for both optimized files.
TABLE_1 = (
    _classifier(
        "mobilenet_v1",
        "MobileNet-v1-1-224",
        {"float32": 0.709, "int8": 0.657, "qat": 0.70},
        {"float32": 124, "int8": 112, "qat": 64},
        {"float32": 16.9, "int8": 4.3, "qat": 4.3},
    ),
    _classifier(
        "mobilenet_v2",
        "MobileNet-v2-1-224",
        {"float32": 0.719, "int8": 0.637, "qat": 0.709},
        {"float32": 89, "int8": 98, "qat": 54},
        {"float32": 14.0, "int8": 3.6, "qat": 3.6},
    ),
    _classifier(
        "inception_v3",
        "Inception_v3",
        {"float32": 0.78, "int8": 0.772, "qat": 0.775},
        {"float32": 1130, "int8": 845, "qat": 543},
        {"float32": 95.7, "int8": 23.9, "qat": 23.9},
    ),
    _classifier(
        "resnet_v2_101",
        "ResNet_v2_101",
        {"float32": 0.770, "int8": 0.768},
        {"float32": 3973, "int8": 2868},
        {"float32": 178.3, "int8": 44.9},
    ),
)

TABLE_2 = (
    _quality("wav2letter", "Wav2letter", "WER", "%", (6.7, 7.7, 7.2), higher_is_better=False),
    _quality("deepspeech", "DeepSpeech 0.5.1 (unrolled)", "CER", "%", (6.13, 43.67, 6.52), higher_is_better=False),
    _quality("yolov3", "YoloV3", "mAP (IOU=0.5)", "", (0.577, 0.563, 0.574)),
    _quality("mobilenet_v1", "MobileNetV1", "top-1", "", (0.7062, 0.694, 0.6936)),
    _quality("mobilenet_v2", "MobileNetV2", "top-1", "", (0.718, 0.7126, 0.7137)),
    Published(
        "mobilebert", "MobileBert", (_metric("F1", "%", (88.81, 2.08, 88.73)), _metric("exact match", "%", (81.23, 0.0, 81.15)))
    ),
)

TABLES: Mapping[int, tuple[Published, ...]] = MappingProxyType({1: TABLE_1, 2: TABLE_2})
