"""The tree as a picture: whole, well-formed, with one path set off."""

import xml.etree.ElementTree as ET

from edgekit.workflows.guide.decision_tree import LEAVES, TREE, Step
from edgekit.workflows.guide.picture import WIDTH, svg

PATH = (
    Step("hardware", TREE["hardware"].question, "CPU", ""),
    Step("data", TREE["data"].question, "none", ""),
    Step("free", TREE["free"].question, "float16", ""),
)
SVG = "{http://www.w3.org/2000/svg}"


def _texts(picture: str) -> str:
    return " ".join(text.text or "" for text in ET.fromstring(picture).iter(f"{SVG}text"))


def test_every_question_and_every_leaf_is_drawn() -> None:
    drawn = _texts(svg())
    for words in (*(node.question.format(metric="accuracy") for node in TREE.values()), *LEAVES.values()):
        assert words in drawn


def test_the_path_alone_is_set_off() -> None:
    bold = [text.text for text in ET.fromstring(svg(PATH)).iter(f"{SVG}text") if text.get("font-weight") == "600"]
    assert bold[:2] == ["What will run it?", "CPU → What data is there?"]
    assert " ".join(filter(None, bold[2:])) == "none → Which scheme that needs no data is best? float16 weights"
    assert "font-weight" not in svg()


def test_answers_that_lead_to_the_same_end_are_drawn_once() -> None:
    path = (*PATH[:1], Step("data", "", "rows to calibrate on", ""), Step("quantized", "", "not judged", ""))
    assert _texts(svg(path)).count(TREE["measured"].question) == 1
    bold = [text.text for text in ET.fromstring(svg(path)).iter(f"{SVG}text") if text.get("font-weight") == "600"]
    assert any("yes or not judged" in str(line) for line in bold)


def test_nothing_reaches_over_the_edge_of_a_phone() -> None:
    picture = ET.fromstring(svg(PATH, "a <model> & more"))
    assert picture.get("viewBox", "").split()[2] == str(WIDTH) == "400"
    for box in picture.iter(f"{SVG}rect"):
        assert float(box.get("x", "")) + float(box.get("width", "")) <= WIDTH
    # 12.5 px letters of a system font are at most about 7.3 px wide on average.
    for text in picture.iter(f"{SVG}text"):
        assert float(text.get("x", "")) + 7.3 * len(text.text or "") <= WIDTH + 4, text.text


def test_it_loads_nothing_and_says_itself_in_words() -> None:
    picture = svg(PATH, "net")
    assert "What will run it? CPU" in ET.fromstring(picture).get("aria-label", "")
    assert "href" not in picture
    assert "url(" not in picture
