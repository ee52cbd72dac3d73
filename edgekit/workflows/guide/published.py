"""The figures that the TF Lite guide publishes, Tables 1 and 2.

Source: "Model optimization", https://ai.google.dev/edge/litert/models/model_optimization. Latency is that of one
inference on a single big core of a Pixel 2."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

SOURCE = "https://ai.google.dev/edge/litert/models/model_optimization"
DEVICE = "Pixel 2, one big core"
# The guide's figures came with TensorFlow 1.x and 2.x converters of these years.
YEARS = "2018 to 2021"

# What the columns of each table are called here; "qat" is int8 after quantization-aware training.
COLUMNS: Mapping[int, tuple[str, ...]] = {1: ("float32", "int8", "qat"), 2: ("float32", "int8", "int16x8")}


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

    All mappings are by scheme; a scheme without a figure is one for which the guide gives none. Sizes are in MB of 10^6 bytes."""

    name: str
    title: str
    metrics: tuple[Metric, ...]
    latency_ms: Mapping[str, float] = field(default_factory=dict)
    size_mb: Mapping[str, float] = field(default_factory=dict)


def _by_scheme(table: int, figures: Sequence[float]) -> dict[str, float]:
    return dict(zip(COLUMNS[table], figures, strict=False))


# Top-1, ms and MB. One column of sizes stands for both optimized files.
TABLE_1 = tuple(
    Published(name, title, (Metric("top-1", "", _by_scheme(1, top1)),), _by_scheme(1, ms), _by_scheme(1, mb))
    for name, title, top1, ms, mb in (
        ("mobilenet_v1", "MobileNet-v1-1-224", (0.709, 0.657, 0.70), (124, 112, 64), (16.9, 4.3, 4.3)),
        ("mobilenet_v2", "MobileNet-v2-1-224", (0.719, 0.637, 0.709), (89, 98, 54), (14.0, 3.6, 3.6)),
        ("inception_v3", "Inception_v3", (0.78, 0.772, 0.775), (1130, 845, 543), (95.7, 23.9, 23.9)),
        ("resnet_v2_101", "ResNet_v2_101", (0.770, 0.768), (3973, 2868), (178.3, 44.9)),
    )
)
TABLE_2 = tuple(
    Published(name, title, tuple(Metric(kind, unit, _by_scheme(2, values), kind not in ("WER", "CER")) for kind, values in figures))
    for name, title, unit, figures in (
        ("wav2letter", "Wav2letter", "%", [("WER", (6.7, 7.7, 7.2))]),
        ("deepspeech", "DeepSpeech 0.5.1 (unrolled)", "%", [("CER", (6.13, 43.67, 6.52))]),
        ("yolov3", "YoloV3", "", [("mAP (IOU=0.5)", (0.577, 0.563, 0.574))]),
        ("mobilenet_v1", "MobileNetV1", "", [("top-1", (0.7062, 0.694, 0.6936))]),
        ("mobilenet_v2", "MobileNetV2", "", [("top-1", (0.718, 0.7126, 0.7137))]),
        ("mobilebert", "MobileBert", "%", [("F1", (88.81, 2.08, 88.73)), ("exact match", (81.23, 0.0, 81.15))]),
    )
)
TABLES: Mapping[int, tuple[Published, ...]] = {1: TABLE_1, 2: TABLE_2}
