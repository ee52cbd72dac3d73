"""Time files on a phone: Google's `benchmark_model`, pushed and run over adb, and what it printed as measurements."""

import contextlib
import re
import secrets
import shutil
import struct
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgekit.errors import ConfigError, InputError
from edgekit.measure.judge import gzip_size
from edgekit.measure.measurement import Latency, Measurement
from edgekit.system.worker import OnProgress, Progress

_PLACE = "/data/local/tmp"
_SHORT_SECONDS, _PUSH_SECONDS, _RUN_SECONDS = 30.0, 600.0, 600.0
_PROPERTIES = (
    "ro.product.manufacturer",
    "ro.product.model",
    "ro.build.version.release",
    "ro.build.version.sdk",
    "ro.product.cpu.abilist",
)
# e_machine of the ELF header -> Android's name of the ABI.
_MACHINES = {183: "arm64-v8a", 40: "armeabi-v7a", 62: "x86_64", 3: "x86", 243: "riscv64"}
_NUMBER = r"([\d.]+(?:e[+-]?\d+)?)"
_TIMINGS = re.compile(rf"Inference timings in us: Init: {_NUMBER}, First inference: {_NUMBER}, .*Inference \(avg\): {_NUMBER}")
_RUNS = re.compile(rf"\bcount=(\d+)(?: first={_NUMBER})? curr={_NUMBER}(?: min={_NUMBER})?([^\n]*)")
_MEDIAN = re.compile(rf"\bmedian={_NUMBER}")
_MEMORY = re.compile(rf"Memory footprint delta from the start of the tool \(MB\): init={_NUMBER} overall={_NUMBER}")
_REPLACED = re.compile(r"Replacing (\d+) out of (\d+) node\(s\) with delegate \((\w+)\) node, yielding (\d+) partitions")
_UNUSED = re.compile(r"delegate is explicitly applied, the model graph will not be executed by the delegate", re.IGNORECASE)
_LISTED = re.compile(r"(?!List of|\*)(\S+)\s+(no permissions|\S+)")
_TROUBLE = re.compile(r"error|fail|cannot|not executable|denied|killed|abort|segmentation", re.IGNORECASE)


@dataclass(frozen=True)
class DeviceConfig:
    """What to run: `binary` is Google's benchmark_model for the phone's ABI; each file is run with each of `threads`, and on the
    GPU after them. `runs` and `warmup` are the least, of which benchmark_model makes more for fast models."""

    binary: Path
    threads: tuple[int, ...] = (1, 2, 4)
    gpu: bool = False
    runs: int = 100
    warmup: int = 10
    run_seconds: float = _RUN_SECONDS


@dataclass(frozen=True)
class Device:
    """A phone: how adb calls it, and what it says of itself."""

    serial: str
    name: str
    abis: tuple[str, ...]


def serial_of(device: str) -> str | None:
    """The serial in `adb:SERIAL`, None for `adb`. Raises `ConfigError` for anything else."""
    kind, colon, serial = device.partition(":")
    if kind != "adb" or (colon and not serial):
        raise ConfigError(f"--device {device}: give adb, or adb:SERIAL where several phones are attached")
    return serial or None


def find(serial: str | None) -> Device:
    """The phone with `serial`, or the only one. Raises `InputError` with what to install, plug in or choose."""
    listed = _adb("devices", "-l").splitlines()
    states = {found[1]: found[2] for line in listed if (found := _LISTED.match(line))}
    if serial is None:
        ready = [name for name, state in states.items() if state == "device"]
        if len(ready) > 1:
            raise InputError(f"adb: several devices: {', '.join(ready)}; choose one with --device adb:SERIAL")
        serial = next(iter(ready or states), None)
    if serial is None:
        raise InputError("adb: no device; plug in a phone with USB debugging switched on, and see that `adb devices` lists it")
    if serial not in states:
        raise InputError(f"adb: no device {serial}; attached: {', '.join(states) or 'none'}")
    if states[serial] != "device":
        raise InputError(
            f"adb: {serial}: {states[serial]}; unlock it, allow USB debugging from this computer, and plug it in again"
        )
    told = [_adb("-s", serial, "shell", f"getprop {name}").strip() for name in _PROPERTIES]
    maker, model, release, level, abis = told
    name = model if model.lower().startswith(maker.lower()) else f"{maker} {model}"
    return Device(serial, f"{name.strip() or serial}, Android {release} (API {level})", tuple(filter(None, abis.split(","))))


def benchmark(files: Sequence[Path], device: Device, config: DeviceConfig, on_progress: OnProgress = None) -> list[Measurement]:
    """Each file with each number of threads, then on the GPU; `path` tells them apart. What was pushed is removed again.

    A run that gives no times has a `failure`. Raises `InputError` for a binary that is not for this phone, and for a phone
    that goes away or is full."""
    _check_binary(config.binary, device)
    plans, done = _plans(config), 0
    found = []
    with _room(device) as room:
        binary, model = f"{room}/benchmark_model", f"{room}/model.tflite"
        _push(device, config.binary, binary)
        _adb("-s", device.serial, "shell", f"chmod 755 {binary}")
        for file in files:
            _push(device, file, model)
            size, packed = file.stat().st_size, gzip_size(file)
            for plan in plans:
                if on_progress is not None:
                    on_progress(Progress("benchmark", done, len(files) * len(plans), f"{file.name} on {plan.name}"))
                flags = f"--num_threads={plan.threads} --num_runs={config.runs} --warmup_runs={config.warmup}"
                flags += " --use_gpu=true" if plan.gpu else ""
                said, problem = _run(device, f"{binary} --graph={model} {flags}", config.run_seconds)
                row = Measurement(f"{file} ({plan.name})", size, packed, threads=plan.threads, runtime=plan.name)
                found.append(parse(said, row, gpu=plan.gpu, problem=problem))
                done += 1
    return found


def names(files: Sequence[Path], config: DeviceConfig) -> tuple[str, ...]:
    """What to call the rows of `benchmark`, in their order."""
    stems = [file.stem for file in files]
    called = [file.stem if stems.count(file.stem) == 1 else str(file.with_suffix("")) for file in files]
    return tuple(f"{name} {plan.mark}" for name in called for plan in _plans(config))


def parse(said: str, row: Measurement, *, gpu: bool = False, problem: str = "") -> Measurement:
    """`row` with the figures in benchmark_model's output, or with the failure that it tells of.

    p50 is its median, or where an older build prints none, its mean; it prints no other percentile that we show."""
    runs, timings = list(_RUNS.finditer(said)), _TIMINGS.search(said)
    if gpu and _UNUSED.search(said):
        return replace(
            row, failure=f"{row.path}: the GPU takes none of its ops, so it would run on the CPU; try a float16 or float32 file"
        )
    if timings is None or not runs:
        return replace(row, failure=f"{row.path}: benchmark_model gave no times: {problem or _trouble(said)}")
    init, first, mean = (float(value) for value in timings.groups())
    last = runs[-1]
    median = _MEDIAN.search(last[5])
    memory, replaced = _MEMORY.search(said), _REPLACED.search(said)
    return replace(
        row,
        load_ms=init / 1e3,
        first_ms=first / 1e3,
        latency=Latency(
            runs=int(last[1]),
            warmup=sum(int(run[1]) for run in runs[:-1]),
            mean_ms=mean / 1e3,
            p50_ms=(float(median[1]) if median else mean) / 1e3,
            p90_ms=None,
            p99_ms=None,
            min_ms=float(last[4] or last[3]) / 1e3,
        ),
        peak_bytes=int(float(memory[2]) * 2**20) if memory else None,
        ops=int(replaced[2]) if replaced else None,
        delegated_ops=int(replaced[1]) if replaced else None,
        partitions=int(replaced[4]) if replaced else None,
        samples_per_s=1e6 / mean if mean else None,
    )


def has_median(rows: Sequence[Measurement]) -> bool:
    """Whether any p50 is told apart from the mean."""
    return any(row.latency.p50_ms != row.latency.mean_ms for row in rows if row.latency)


def _trouble(said: str) -> str:
    lines = [" ".join(line.split()) for line in said.splitlines() if line.strip()]
    worst = next((line for line in lines if _TROUBLE.search(line)), lines[-1] if lines else "it printed nothing")
    return worst[:200]


@dataclass(frozen=True)
class _Plan:
    """`name` says it in full, `mark` as short as a table's first column wants it."""

    name: str
    mark: str
    threads: int
    gpu: bool = False


def _plans(config: DeviceConfig) -> list[_Plan]:
    """What each file is run with. On the GPU the threads are those of what the GPU leaves to the CPU."""
    on_cpu = [_Plan(f"CPU, {count} thread{'s' * (count != 1)}", f"×{count}", count) for count in config.threads]
    return [*on_cpu, *([_Plan("GPU", "GPU", 1, gpu=True)] if config.gpu else [])]


@contextlib.contextmanager
def _room(device: Device) -> Iterator[str]:
    """A folder on the phone that is gone afterwards, whatever happens."""
    room = f"{_PLACE}/edgekit-{secrets.token_hex(4)}"
    try:
        _adb("-s", device.serial, "shell", f"mkdir {room}")
        yield room
    finally:
        with contextlib.suppress(InputError):
            _adb("-s", device.serial, "shell", f"rm -rf {room}")


def _check_binary(binary: Path, device: Device) -> None:
    try:
        head = binary.open("rb").read(20)
    except OSError as error:
        raise InputError(f"{binary}: cannot be read ({error.strerror}); give Google's benchmark_model for the phone") from None
    if head[:4] != b"\x7fELF" or len(head) < 20:
        raise InputError(f"{binary}: is no program for Android (no ELF header); give Google's benchmark_model")
    abi = _MACHINES.get(struct.unpack_from("<H", head, 18)[0], "another processor")
    if device.abis and abi not in device.abis:
        raise InputError(f"{binary}: is built for {abi}, {device.name} takes {', '.join(device.abis)}; give the build for it")


def _push(device: Device, file: Path, target: str) -> None:
    try:
        _adb("-s", device.serial, "push", str(file), target, seconds=_PUSH_SECONDS)
    except InputError as error:
        raise InputError(f"{file}: cannot be pushed to {device.serial} ({error.message}); check its free space and cable") from None


def _run(device: Device, command: str, seconds: float) -> tuple[str, str]:
    """What a command on the phone printed, and why it ended if not by itself. Raises `InputError` if the phone is gone."""
    try:
        done = subprocess.run(
            [_program(), "-s", device.serial, "shell", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        return "", f"stopped after {seconds:g} s"
    said = done.stdout.decode(errors="replace").replace("\r", "")
    if done.returncode and re.search(r"^(adb|error): .*(not found|offline|no devices|closed)", said, re.MULTILINE):
        raise InputError(f"adb: {device.serial} went away ({_trouble(said)}); plug it in again")
    return said, ""


def _adb(*arguments: str, seconds: float = _SHORT_SECONDS) -> str:
    """stdout of adb. Raises `InputError` with its last line if it fails."""
    try:
        done = subprocess.run([_program(), *arguments], stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=seconds)
    except subprocess.TimeoutExpired:
        raise InputError(f"adb: {arguments[-1]}: no answer in {seconds:g} s; plug the phone in again") from None
    except OSError as error:
        raise InputError(f"adb: cannot be started ({error.strerror}); install Android's platform tools") from None
    if done.returncode:
        said = (done.stderr or done.stdout).decode(errors="replace")
        raise InputError(f"adb: {_trouble(said).removeprefix('adb: ').removeprefix('error: ')}")
    return done.stdout.decode(errors="replace").replace("\r", "")


def _program() -> str:
    if found := shutil.which("adb"):
        return found
    raise InputError("adb: not installed; install Android's platform tools (Debian: apt-get install adb) and plug in a phone")
