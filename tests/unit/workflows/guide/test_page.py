"""The guide's page: every published figure, every reason, every mark, and nothing from the network."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from edgekit.measure.measurement import Latency, Measurement
from edgekit.tasks.metrics import Score, proportion
from edgekit.workflows.guide.page import page
from edgekit.workflows.guide.pareto import ACCURACY, AGREEMENT, SIZE, Point, front, pareto, ratios, sizes
from edgekit.workflows.guide.published import SOURCE, TABLES, Published
from edgekit.workflows.guide.results import GuideModel, GuideRun, to_float32

EVIL = "<script>alert('x')</script> & \"co\""
RANDOM = "weights drawn at random"


def measured(scheme: str, megabytes: float, ms: float, accuracy: int | None = None, agreement: int | None = None) -> Measurement:
    share = proportion(accuracy, 100) if accuracy is not None else None
    return Measurement(
        f"out/m_{scheme}.tflite",
        int(megabytes * 1e6),
        None,
        scheme,
        threads=2,
        latency=Latency(100, 10, ms, ms, ms, ms, ms),
        metric=Score("accuracy", share.value, share.low, share.high, 100, accuracy) if share else None,
        agreement=proportion(agreement, 100) if agreement is not None else None,
    )


def model(published: Published, *rows: Measurement, **more) -> GuideModel:
    return GuideModel(published.name, published.title, published, "weights as they are", rows, **more)


def run_of(table: int, *models: GuideModel) -> GuideRun:
    return GuideRun(table, "a machine of ours", "some rows", {"threads": 2}, models, "2026-01-02T03:04:05")


@pytest.fixture(scope="module")
def run() -> GuideRun:
    """Table 1 with one model measured in full, one with random weights, one file that crashed, and one model that failed."""
    v1, v2, inception, resnet = TABLES[1]
    return run_of(
        1,
        model(v1, measured("float32", 17.1, 4.0, 70, 100), measured("int8", 4.5, 1.0, 69, 95), measured("qat", 4.5, 1.1, 70, 96)),
        model(
            v2,
            measured("float32", 14.1, 2.0, None, 100),
            measured("int8", 4.0, 0.5, None, 62),
            missing={"float32 accuracy": "random weights have none", "int8 accuracy": "random weights have none", "qat": "no data"},
            marks={"float32": RANDOM, "int8": RANDOM},
        ),
        model(inception, Measurement("out/m_int8.tflite", 24_000_000, None, "int8", failure="m_int8.tflite: crashed at once")),
        model(resnet, failure=EVIL),
    )


@pytest.fixture(scope="module")
def text(run: GuideRun) -> str:
    return page(run)


class _Tables(HTMLParser):
    """Each table as rows of its cells' texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self._inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self._inside = True

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.tables[-1][-1][-1] = f"{self.tables[-1][-1][-1]} {data.strip()}".strip()


def tables(text: str) -> list[list[list[str]]]:
    return _Tables(text).tables


@pytest.mark.parametrize("number", TABLES)
def test_every_published_figure_stands_in_its_model_s_row(number: int):
    accuracy, latency, size = tables(page(run_of(number, *(model(published) for published in TABLES[number]))))
    metrics = [metric for published in TABLES[number] for metric in published.metrics]
    assert len(accuracy) == 2 + len(metrics)
    for row, metric in zip(accuracy[2:], metrics, strict=True):
        shown = [float(cell) for cell in row[1:] if re.fullmatch(r"[\d.]+", cell)]
        assert shown == pytest.approx([value * (1 if metric.unit == "%" else 100) for value in metric.values.values()])
    for found, figures in (
        (latency, [published.latency_ms for published in TABLES[number]]),
        (size, [published.size_mb for published in TABLES[number]]),
    ):
        for row, values in zip(found[2:], figures, strict=True):
            assert [float(cell.split()[0]) for cell in row[1:] if cell[0].isdigit()] == pytest.approx(list(values.values()))


def test_measured_figures_stand_beside_the_published_ones(text: str):
    accuracy, latency, size = tables(text)
    assert accuracy[0] == ["Model", "float32", "int8", "int8, QAT"]
    assert accuracy[1] == ["published", "measured"] * 3
    assert accuracy[2][1:4] == ["70.9", "70.0 60.4–78.1 100 rows", "65.7"]
    assert accuracy[2][4].endswith("100 rows agrees in 95.0 %")
    assert accuracy[3][4] == f"– [1] agrees in 62.0 % of 100 {RANDOM}"
    assert latency[2][1:] == ["124", "4.00", "112 0.90×", "1.00 0.25×", "64 0.52×", "1.10 0.28×"]
    assert size[0] == ["Model", "float32", "int8", "int8, QAT"]
    assert size[1] == ["published", "measured"] * 3
    assert size[2][1:] == ["16.9", "17.1 +1.2 %", "4.3", "4.50 +4.7 % 0.26×", "4.3", "4.50 +4.7 % 0.26×"]


def test_every_empty_cell_has_a_reason_below_its_table(text: str):
    empty = re.findall(r'class="[^"]*\bempty">(.*?)</td>', text, re.DOTALL)
    assert empty
    for cell in empty:
        (number,) = re.findall(r'href="#([\w-]+)"', cell)
        assert len(re.findall(rf'<li id="{number}">\S', text)) == 1
    for reason in ("random weights have none", "no data", "m_int8.tflite: crashed at once", "The guide gives no figure here."):
        assert f">{reason}</li>" in text
    assert "–" not in {cell for table in tables(text) for row in table for cell in row}


def test_random_weights_are_marked_in_every_cell_and_picture_that_they_touch(text: str):
    for table in tables(text):
        for row in table[2:]:
            touched = [cell for cell in row[1:] if RANDOM in cell]
            if row[0].startswith("MobileNet-v2"):
                # Of the accuracies only int8's agreement is a figure.
                assert len(touched) == (1 if "top-1" in row[0] else 2)
            else:
                assert not touched
    caption = re.search(r"<h3>MobileNet-v2-1-224</h3>\s*<figcaption>(.*?)</figcaption>", text, re.DOTALL)
    assert caption is not None
    assert caption[1].startswith("Weights drawn at random.")
    assert len(re.findall(rf"<text[^>]*>MobileNet-v2-1-224 \({RANDOM}\)</text>", text)) == 2


def test_a_picture_says_which_file_each_mark_is_of(run: GuideRun):
    marked = replace(run.models[0], marks={"float32": RANDOM, "int8": RANDOM, "qat": f"{RANDOM}, not trained"})
    told = page(replace(run, models=(marked,)))
    assert f"W{RANDOM[1:]} (float32; int8). W{RANDOM[1:]}, not trained (int8, QAT). Up and to the left" in told


def test_names_and_sentences_are_escaped(run: GuideRun):
    evil = replace(run.models[0], title=EVIL, weights=EVIL, marks={"int8": EVIL}, missing={"qat": EVIL})
    text = page(replace(run, machine=EVIL, data=EVIL, settings={EVIL: EVIL}, models=(evil, *run.models[1:])))
    assert "<script" not in text.lower()
    assert text.count("&lt;script&gt;") > 10


def test_nothing_is_loaded_from_anywhere_else(text: str):
    assert not re.search(r"url\((?!#)|@import|<(script|link|iframe|object|embed|img)\b", text)
    assert all(link.startswith("#") for link in re.findall(r'(?:href|src)="([^"]*)"', text))
    namespaces = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert {found.rstrip(";.,") for found in re.findall(r"https?://[^\"'\s<)]+", text)} <= {SOURCE, *namespaces}


def test_a_run_where_every_model_failed_still_has_the_published_side():
    text = page(run_of(2, *(model(published, failure="no memory left") for published in TABLES[2])))
    assert text.count("no memory left") >= len(TABLES[2])
    assert "43.67" in text
    assert "Pareto" not in text


def test_the_decision_tree_is_shown(text: str):
    assert 'aria-label="Decision tree' in text
    assert "What data is there?" in text


def test_the_front_holds_what_no_other_scheme_beats():
    fast, good, slow, even = (
        Point("int8", 1, 70, 0, 0),
        Point("float32", 4, 75, 0, 0),
        Point("int16x8", 90, 74, 0, 0),
        Point("dynamic", 4, 72, 0, 0),
    )
    assert front([slow, good, fast, even], smaller=False) == (fast, good)
    assert front([slow, good, fast, even], smaller=True) == (fast,)
    assert front([fast, fast], smaller=False) == (fast, fast)


def test_quality_is_accuracy_then_agreement_then_size(run: GuideRun):
    whole, random, *failed = run.models
    assert (found := pareto(whole)) is not None
    assert (found.quality, [point.value for point in found.points]) == (ACCURACY, [70, 69, 70])
    assert [point.scheme for point in found.front] == ["int8", "qat"]
    assert (found := pareto(random)) is not None
    assert found.quality == AGREEMENT
    bare = replace(random, rows=tuple(replace(row, agreement=None) for row in random.rows))
    assert (found := pareto(bare)) is not None
    assert (found.quality, [point.value for point in found.points]) == (SIZE, [14.1, 4.0])
    assert all(pareto(item) is None for item in failed)


def test_ratios_are_to_the_model_s_own_float32(run: GuideRun):
    found = {(pair.model, pair.scheme): pair for pair in ratios(run)}
    assert found["MobileNet-v1-1-224", "int8"].published == pytest.approx(112 / 124)
    assert found["MobileNet-v1-1-224", "int8"].measured == 0.25
    assert found["ResNet_v2_101", "int8"].measured is None
    assert ("ResNet_v2_101", "qat") not in found
    assert to_float32(run.models[2].latency_ms).get("int8") is None
    assert {pair.scheme for pair in sizes(run) if pair.model == "Inception_v3"} == {"float32", "int8", "qat"}
    assert {pair.scheme for pair in sizes(run) if pair.model == "ResNet_v2_101"} == {"float32", "int8"}
