"""A child's end, whatever its kind, is a result or a typed error; every child here is a real one."""

import ctypes
import os
import signal
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from edgekit.errors import DatasetError, OutputError, WorkerCrashed, WorkerOutOfMemory, WorkerTimeout
from edgekit.system import worker
from edgekit.system.worker import Progress, Worker, together


def _double(number: int, *, plus: int = 0) -> int:
    return 2 * number + plus


def _raise(message: str) -> None:
    raise LookupError(message)


def _raise_ours() -> None:
    raise DatasetError("train.tsv: row 3 has no label; fill it in")


def _exit(code: Any) -> None:
    sys.stdout.write("the library's last words\n")
    sys.exit(code)


def _kill_self(number: int) -> None:
    os.kill(os.getpid(), number)


def _segfault() -> None:
    ctypes.string_at(0)


def _sleep(seconds: float) -> None:
    sys.stderr.write("going to sleep\n")
    sys.stderr.flush()
    time.sleep(seconds)


def _grow(megabytes: int) -> None:
    hoard = []
    for _ in range(megabytes // 10):
        hoard.append(os.urandom(10 * 2**20))
        time.sleep(0.01)
    time.sleep(30)


def _report(stage: str, total: int) -> None:
    for done in range(1, total + 1):
        worker.progress(stage, done, total, f"loss {1 / done:.2f}")


def _leave_a_child_behind(pid_file: str) -> int:
    pid = os.posix_spawn("/bin/sleep", ["sleep", "60"], {})
    Path(pid_file).write_text(str(pid))
    return pid


def _leave_a_file_behind() -> Path:
    return Path(tempfile.mkstemp(prefix="left-")[1])


def _leave_a_file_and_die(place: Path) -> None:
    place.write_text(str(_leave_a_file_behind()))
    os.kill(os.getpid(), signal.SIGKILL)


def _environment(name: str) -> str | None:
    return os.environ.get(name)


def _lambda() -> Any:
    return lambda: None


def _out_of_memory() -> None:
    raise MemoryError


def _disk_full(path: Path) -> None:
    import resource

    # There is room for the answer, with its traceback.
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    path.write_bytes(bytes(50_000))


def _origins() -> tuple[str | None, str | None]:
    import pickle
    import wave

    return pickle.__file__, wave.__file__


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_returns_the_value_with_time_and_memory() -> None:
    outcome = Worker().run(_double, 20, plus=2)
    assert outcome.value == 42
    assert 0 < outcome.seconds < 30
    assert 5 * 2**20 < outcome.peak_bytes < 500 * 2**20


def test_our_error_comes_through_with_its_class_and_a_traceback() -> None:
    with pytest.raises(DatasetError, match=r"^train\.tsv: row 3 has no label; fill it in$") as caught:
        Worker().run(_raise_ours)
    assert "_raise_ours" in caught.value.detail


def test_a_foreign_exception_is_named() -> None:
    with pytest.raises(WorkerCrashed, match=r"_raise: LookupError: no such layer: encoder; run with --debug for more$") as caught:
        Worker().run(_raise, "no such layer:\n   encoder")
    assert "Traceback" in caught.value.detail


@pytest.mark.parametrize("code", [0, 3])
def test_an_exit_of_a_library_is_a_crash_even_with_code_0(code: int) -> None:
    with pytest.raises(WorkerCrashed, match=rf"left the process \(exit code {code}\): the library's last words"):
        Worker().run(_exit, code)


def test_an_exit_with_a_message_shows_it() -> None:
    with pytest.raises(WorkerCrashed, match=r"exit code 1\): cannot go on"):
        Worker().run(_exit, "cannot go on")


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGTERM])
def test_a_signal_is_named(number: signal.Signals) -> None:
    with pytest.raises(WorkerCrashed, match=f"_kill_self: crashed with {number.name}"):
        Worker().run(_kill_self, number)


def test_a_signal_without_a_name_is_numbered() -> None:
    with pytest.raises(WorkerCrashed, match="crashed with signal 40"):
        Worker().run(_kill_self, 40)


def test_a_real_segfault_leaves_a_traceback_for_debug() -> None:
    with pytest.raises(WorkerCrashed, match="SIGSEGV") as caught:
        Worker().run(_segfault)
    assert "_segfault" in caught.value.detail


def test_a_kill_from_outside_reads_as_out_of_memory() -> None:
    with pytest.raises(WorkerOutOfMemory, match="killed by the system"):
        Worker().run(_kill_self, signal.SIGKILL)


def test_a_memory_error_is_typed() -> None:
    with pytest.raises(WorkerOutOfMemory, match="_out_of_memory: out of memory"):
        Worker().run(_out_of_memory)


def test_the_memory_limit_stops_the_child() -> None:
    started = time.monotonic()
    with pytest.raises(WorkerOutOfMemory, match=r"above the limit of 0\.2 GiB"):
        Worker(memory_bytes=200 * 2**20).run(_grow, 500)
    assert time.monotonic() - started < 15


def test_the_time_limit_stops_the_child_and_keeps_its_output() -> None:
    started = time.monotonic()
    with pytest.raises(WorkerTimeout, match=r"_sleep: stopped after the limit of 1 s") as caught:
        Worker(timeout_s=1).run(_sleep, 60)
    assert time.monotonic() - started < 10
    assert "going to sleep" in caught.value.detail


def test_a_full_disk_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"_disk_full: File too large; free some space"):
        Worker().run(_disk_full, tmp_path / "weights.bin")


def test_a_result_that_cannot_travel_is_named() -> None:
    with pytest.raises(WorkerCrashed, match=r"_lambda: \w+Error: Can't \w+ local object"):
        Worker().run(_lambda)


def test_progress_arrives_whole_and_in_order() -> None:
    seen: list[Progress] = []
    Worker(on_progress=seen.append).run(_report, "fine-tune", 500)
    assert [item.done for item in seen] == list(range(1, 501))
    assert seen[0] == Progress("fine-tune", 1, 500, "loss 1.00")


def test_an_interrupt_from_the_listener_stops_the_child() -> None:
    def interrupt(_: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Worker(on_progress=interrupt).run(_report, "train", 3)


def test_progress_outside_a_worker_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGEKIT_PROGRESS_FD", raising=False)
    worker.progress("train", 1, 2)


def test_what_the_child_started_ends_with_it(tmp_path: Path) -> None:
    pid = Worker().run(_leave_a_child_behind, str(tmp_path / "pid")).value
    deadline = time.monotonic() + 5
    while _alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(pid)


def test_the_environment_is_the_parents_and_more() -> None:
    run = Worker(env={"EDGEKIT_TEST": "yes"}).run
    assert run(_environment, "EDGEKIT_TEST").value == "yes"
    assert run(_environment, "TF_USE_LEGACY_KERAS").value == "1"
    assert run(_environment, "PATH").value == os.environ["PATH"]


def test_files_in_the_users_folder_do_not_shadow_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("json", "pickle", "psutil", "wave", "edgekit"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('imported from the current folder')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    for origin in Worker().run(_origins).value:
        assert origin is not None
        assert not origin.startswith(str(tmp_path))


def _sleep_as(pid_file: Path, seconds: float) -> None:
    pid_file.write_text(str(os.getpid()))
    time.sleep(seconds)


def test_together_gives_results_in_order() -> None:
    def after(seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    assert together([partial(after, seconds) for seconds in (0.2, 0.0, 0.1)]) == [0.2, 0.0, 0.1]
    assert together([]) == []


def test_two_run_together_and_no_more() -> None:
    lock, now, most = threading.Lock(), [0], [0]

    def task() -> None:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.05)
        with lock:
            now[0] -= 1

    together([task] * 6)
    assert most == [2]


def test_an_error_is_raised_once_all_have_ended() -> None:
    ended: list[int] = []

    def task(number: int) -> None:
        if number in (1, 3):
            raise DatasetError(f"task {number}")
        time.sleep(0.1)
        ended.append(number)

    with pytest.raises(DatasetError, match="task 1"):
        together([partial(task, number) for number in range(5)])
    assert sorted(ended) == [0, 2, 4]


def test_together_inside_together(tmp_path: Path) -> None:
    run = Worker(timeout_s=60).run

    def inner(number: int) -> list[int]:
        return [outcome.value for outcome in together([partial(run, _double, number), partial(run, _double, number + 1)])]

    assert together([partial(inner, 1), partial(inner, 10)]) == [[2, 4], [20, 22]]


@pytest.mark.parametrize("nested", [False, True])
def test_an_interrupt_kills_all_children_at_once(tmp_path: Path, nested: bool) -> None:
    files = [tmp_path / name for name in ("one", "two", "never")]
    one, two, never = (partial(Worker().run, _sleep_as, file, 60.0) for file in files)
    first = partial(together, [one]) if nested else one

    def interrupt() -> None:
        deadline = time.monotonic() + 30
        while not all(file.exists() and file.read_text() for file in files[:2]) and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        together([first, two, never])
    told = time.monotonic()
    thread.join()
    assert not files[2].exists()
    assert not any(_alive(int(file.read_text())) for file in files[:2])
    assert time.monotonic() - told < 5
    # What comes after is not cancelled.
    assert together([partial(Worker().run, _double, 4)])[0].value == 8


def test_an_inner_together_does_not_take_an_interrupt_back() -> None:
    """Else a child beside it that looks a moment later would run on to its end."""
    running, over, seen = threading.Event(), threading.Event(), []

    def inner() -> None:
        together([lambda: worker._cancelled.wait(20)])
        over.set()

    def beside() -> None:
        running.set()
        over.wait(20)
        seen.append(worker._cancelled.is_set())

    def interrupt() -> None:
        running.wait(20)
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        together([inner, beside])
    thread.join()
    assert seen == [True]
    assert not worker._cancelled.is_set()


def test_temporary_files_go_with_the_child(tmp_path: Path) -> None:
    left = Worker().run(_leave_a_file_behind).value
    assert left.name.startswith("left-")
    assert not left.exists()
    with pytest.raises(WorkerOutOfMemory):
        Worker().run(_leave_a_file_and_die, tmp_path / "place")
    assert not Path((tmp_path / "place").read_text()).exists()
