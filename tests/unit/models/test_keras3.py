"""Keras 3 files: what is loaded, and what a file may not bring along."""

import pytest

from edgekit.system.worker import Worker
from tests.unit.models import keras_archives


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return Worker(timeout_s=300).run(keras_archives.sound_and_strange, tmp_path_factory.mktemp("keras")).value


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("net.keras", "x -> scores"),
        ("named.keras", "a b -> class age"),
        ("several.keras", "a b -> twice twice_1 mean"),
        ("recurrent.keras", "steps -> last"),
        ("recurrent.h5", "steps -> last"),
    ],
)
def test_inputs_and_outputs_have_the_model_s_names(answers: dict[str, str], name: str, ends: str) -> None:
    given, made = ends.split(" -> ")
    assert answers[name].split(" -> ")[0] == given
    assert sorted(answers[name].split(" -> ")[1].split()) == sorted(made.split())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        # CVE-2024-3660 and CVE-2025-9905: code of a Lambda layer, also in .h5 files, which Keras loads without its safe mode.
        ("lambda.keras", "Lambda layer odd holds Python code"),
        ("lambda.h5", "Lambda layer odd holds Python code"),
        # CVE-2025-1550, CVE-2025-8747 and CVE-2025-9906: whatever a module has, Keras' own among it.
        ("module", "its function system is none that Keras knows"),
        ("download", "its function get_file is none that Keras knows"),
        ("unsafe", "its function enable_unsafe_deserialization is none that"),
        ("loss", "its function system is none that Keras knows"),
        ("bytecode", "holds Python code"),
        ("typespec", "is of a class that Keras does not have"),
        ("no layer", "is of a class that Keras does not have"),
        ("registered.keras", "its Net asks for the module"),
        ("savedmodel", "TFSMLayer layer odd reads a file"),
        ("vocabulary", "StringLookup layer odd reads a file"),
        ("pickled", "TorchModuleWrapper layer odd holds Python code"),
        # CVE-2026-0897 and their like: weights from elsewhere.
        ("link", "its weights linked lie in another file"),
        ("external", "its weights out lie in another file"),
        ("virtual", "its weights virtual lie in another file"),
        ("traversal", "holds ../outside, which is no part of a Keras model"),
        ("assets", "holds assets/layer/vocabulary.txt, which is no part"),
        ("twice", "holds a part twice"),
        ("bomb", "model.weights.h5 unpacks to 0.3 GB"),
        ("truncated", "not a whole .keras file"),
        ("cut", "not a whole .keras file"),
        ("empty", "is empty"),
        ("text", "not a whole .keras file"),
        ("hollow", "holds no config.json"),
        ("nested", "its configuration is no JSON (nested too deeply)"),
        ("unbuilt.keras", "was saved before its inputs were known"),
    ],
)
def test_what_is_more_than_layers_and_weights_is_refused(answers: dict[str, str], name: str, words: str) -> None:
    assert answers[name].startswith("ModelFormatError: ")
    assert words in answers[name]
    assert name.split(".")[0] in answers[name]


def test_nothing_of_a_refused_file_ran_or_was_unpacked(answers: dict[str, str]) -> None:
    assert answers["left"] == "False"
