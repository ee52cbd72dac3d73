"""The tasks. To add one: a module beside this one, an entry here, and a row in the parametrised tests."""

from collections.abc import Iterable, Mapping

from edgekit.errors import ConfigError
from edgekit.tasks.base import Task
from edgekit.tasks.classification import IMAGE_CLASSIFICATION, TABULAR_CLASSIFICATION, TABULAR_REGRESSION, TEXT_CLASSIFICATION
from edgekit.tasks.embeddings import FEATURE_EXTRACTION, SENTENCE_SIMILARITY
from edgekit.tasks.fill_mask import FILL_MASK
from edgekit.tasks.generic import GENERIC
from edgekit.tasks.multiple_choice import MULTIPLE_CHOICE
from edgekit.tasks.question_answering import QUESTION_ANSWERING
from edgekit.tasks.token_classification import TOKEN_CLASSIFICATION

TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        TEXT_CLASSIFICATION,
        TOKEN_CLASSIFICATION,
        QUESTION_ANSWERING,
        FEATURE_EXTRACTION,
        SENTENCE_SIMILARITY,
        FILL_MASK,
        MULTIPLE_CHOICE,
        IMAGE_CLASSIFICATION,
        TABULAR_CLASSIFICATION,
        TABULAR_REGRESSION,
        GENERIC,
    )
}


def find(name: str) -> Task:
    """Raises `ConfigError` for an unknown name."""
    if name not in TASKS:
        raise ConfigError(f"unknown task {name}; choose from {', '.join(TASKS)}")
    return TASKS[name]


def of_heads(architectures: Iterable[str]) -> Task | None:
    """The task of the first architecture, such as BertForTokenClassification, whose head serves one; of none, its encoder's."""
    served = [task for architecture in architectures for task in TASKS.values() if task.serves(architecture)]
    return next((task for task in served if not task.headless), next(iter(served), None))
