"""What several tests share. Nothing here loads torch or TensorFlow into the test process itself."""

import os
import signal
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgekit.system import rooms
from edgekit.system.worker import Worker
from tests import forking, tiny

# A shell that starts the tests in the background has them ignore Ctrl-C, and their children with them.
signal.signal(signal.SIGINT, signal.default_int_handler)
if "PYTEST_XDIST_WORKER" in os.environ:
    # Threads of torch that wait for each other on a busy machine take ten times as long as one thread.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    forking.install()

ROOT = Path(__file__).resolve().parent.parent
_FRAMEWORKS, _seen = {"torch", "tensorflow"}, set[str]()


@pytest.fixture(scope="session", autouse=True)
def _children_write_where_tests_do(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests call in children what in a command writes to a room of the run; commands of their own know nothing of this."""
    with rooms.writable(tmp_path_factory.getbasetemp()):
        yield


@pytest.fixture(autouse=True)
def _no_framework_in_the_test_process() -> Iterator[None]:
    """The test that loads one is the test that fails, and not whichever comes after it."""
    yield
    loaded = _FRAMEWORKS & set(sys.modules) - _seen
    _seen.update(loaded)
    assert not loaded, "loads a framework into the test process; run that in a Worker"


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real models and data beside the checkout, or where EDGEKIT_SHARED says; a test that needs them skips without."""
    folder = Path(os.environ.get("EDGEKIT_SHARED") or ROOT.parent / "shared")
    if not (folder / "models").is_dir():
        pytest.skip(f"needs the shared models and data; {folder} is not there (EDGEKIT_SHARED names another folder)")
    return folder


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint folder of a 2-layer, 64-wide BERT classifier, built in a child; copy it before you change it."""
    folder = tmp_path_factory.mktemp("tiny") / "bert"
    return Worker(timeout_s=300).run(tiny.model, folder).value


@pytest.fixture(scope="session")
def tiny_tsv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 sentences in the words of `tiny_bert`, half of them labelled 1, in `sentence<TAB>label` form."""
    return tiny.write_tsv(tmp_path_factory.mktemp("tiny") / "sentences.tsv", 64)


@pytest.fixture
def contents() -> Callable[[Path], dict[str, bytes]]:
    """Every file below a folder by relative name, hidden ones too, to compare before and after byte for byte."""
    return lambda folder: {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.fixture
def unwritable(tmp_path: Path) -> Path:
    """A path below which nothing can be made, for root either: its parent is a file."""
    blocker = tmp_path / "blocker"
    blocker.write_text("a file where a folder should be")
    blocker.chmod(stat.S_IRUSR)
    return blocker / "out"
