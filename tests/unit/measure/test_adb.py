"""What a phone's benchmark_model printed, and adb as a user has it: missing, with no phone, with several, with one."""

import json
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from edgekit.errors import ConfigError, InputError
from edgekit.measure import adb
from edgekit.measure.adb import DeviceConfig
from edgekit.measure.measurement import Measurement
from edgekit.report.content import Report
from edgekit.report.html import page
from edgekit.report.table import markdown
from edgekit.workflows.benchmark import on_device
from tests.commands import edgekit
from tests.unit.classifiers import text_classifier

ROW = Measurement("model.tflite (4 threads)", 1000, 500, threads=4)
HEAD = """\
INFO: STARTING!
INFO: Log parameter values verbosely: [0]
INFO: Min num runs: [50]
INFO: Num threads: [4]
INFO: Graph: [/data/local/tmp/edgekit-1/model.tflite]
INFO: Signature to run: []
INFO: Loaded model /data/local/tmp/edgekit-1/model.tflite
"""
CPU = (
    HEAD
    + """\
INFO: Created TensorFlow Lite XNNPACK delegate for CPU.
VERBOSE: Replacing 58 out of 62 node(s) with delegate (TfLiteXNNPackDelegate) node, yielding 2 partitions for the whole graph.
INFO: The input model file size (MB): 13.9784
INFO: Initialized session in 31.482ms.
INFO: Running benchmark for at least 10 iterations and at least 0.5 seconds but terminate if exceeding 150 seconds.
INFO: count=38 first=15410 curr=13055 min=12890 max=15410 avg=13142.7 std=401 p5=12907 median=13066 p95=13480

INFO: Running benchmark for at least 50 iterations and at least 1 seconds but terminate if exceeding 150 seconds.
INFO: count=77 first=13041 curr=13002 min=12874 max=14201 avg=13051.4 std=166 p5=12900 median=13022 p95=13310

INFO: Inference timings in us: Init: 31482, First inference: 15410, Warmup (avg): 13142.7, Inference (avg): 13051.4
INFO: Note: as the benchmark tool itself affects memory footprint, the following is only APPROXIMATE to the actual memory \
footprint of the model at runtime. Take the information at your discretion.
INFO: Memory footprint delta from the start of the tool (MB): init=21.5 overall=29.25
INFO: Overall peak memory footprint (MB) via periodic monitoring: 35.125
"""
)
# An older build: no prefix, no percentiles, large numbers with an exponent, one warm-up that gives no statistics.
OLD = """\
STARTING!
Loaded model /data/local/tmp/edgekit-1/model.tflite
Initialized session in 17.187ms.
count=1 curr=3512391

count=50 first=2990275 curr=2913402 min=2727568 max=3189954 avg=2.95034e+06 std=109798

Inference timings in us: Init: 17187, First inference: 3512391, Warmup (avg): 3.51239e+06, Inference (avg): 2.95034e+06
"""
GPU = CPU.replace(
    "INFO: Created TensorFlow Lite XNNPACK delegate for CPU.", "INFO: Created TensorFlow Lite delegate for GPU."
).replace("TfLiteXNNPackDelegate", "TfLiteGpuDelegateV2")
UNUSED = HEAD + "INFO: Though GPU delegate is explicitly applied, the model graph will not be executed by the delegate.\n" + CPU
BROKEN = HEAD + "ERROR: Didn't find op for builtin opcode 'GELU' version '2'.\nERROR: Failed to initialize the interpreter\n"

FAKE = """\
#!/bin/sh
# adb as the tests need it: the phone is the folder $FAKE/phone.
echo "$*" >> "$FAKE/log"
if [ "$1" = devices ]; then cat "$FAKE/devices"; exit 0; fi
[ "$1" = -s ] && shift 2
case "$1" in
push)
    if [ -f "$FAKE/full" ]; then echo "adb: error: failed to copy: remote No space left on device" >&2; exit 1; fi
    cp "$2" "$FAKE/phone$3" ;;
shell)
    case "$2" in
    "getprop ro.product.manufacturer") echo Google ;;
    "getprop ro.product.model") echo "Pixel 7" ;;
    "getprop ro.build.version.release") echo 14 ;;
    "getprop ro.build.version.sdk") echo 34 ;;
    "getprop ro.product.cpu.abilist") printf 'arm64-v8a,armeabi-v7a\\r\\n' ;;
    "mkdir "*) mkdir -p "$FAKE/phone${2#mkdir }" ;;
    "chmod 755 "*) chmod 755 "$FAKE/phone${2#chmod 755 }" ;;
    "rm -rf "*) rm -rf "$FAKE/phone${2#rm -rf }" ;;
    *benchmark_model*)
        [ -f "$FAKE/gone" ] && { echo "error: device 'P1' not found" >&2; exit 1; }
        case "$2" in *use_gpu*) cat "$FAKE/gpu" ;; *) cat "$FAKE/cpu" ;; esac ;;
    esac ;;
esac
"""


@pytest.fixture
def phone(tmp_path, monkeypatch) -> Path:
    """A folder that a fake adb on PATH takes for a phone."""
    room = tmp_path / "fake"
    (room / "bin").mkdir(parents=True)
    (room / "phone").mkdir()
    (room / "bin" / "adb").write_text(FAKE)
    (room / "bin" / "adb").chmod(0o755)
    (room / "devices").write_text("List of devices attached\nP1\tdevice product:panther model:Pixel_7 transport_id:1\n\n")
    (room / "cpu").write_text(CPU)
    (room / "gpu").write_text(GPU)
    monkeypatch.setenv("FAKE", str(room))
    monkeypatch.setenv("PATH", f"{room / 'bin'}:/usr/bin:/bin")
    return room


@pytest.fixture
def model(tmp_path) -> Path:
    path = tmp_path / "my model.tflite"
    path.write_bytes(text_classifier())
    return path


def program(path: Path, machine: int = 183) -> Path:
    path.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 3, machine))
    return path


def test_its_output_becomes_figures():
    found = adb.parse(CPU, ROW)
    assert found.failure is None
    assert found.latency is not None
    assert (found.latency.mean_ms, found.latency.p50_ms, found.latency.min_ms) == (13.0514, 13.022, 12.874)
    assert (found.latency.runs, found.latency.warmup, found.latency.p90_ms) == (77, 38, None)
    assert (found.load_ms, found.first_ms, found.peak_bytes) == (31.482, 15.41, int(29.25 * 2**20))
    assert (found.ops, found.delegated_ops, found.partitions) == (62, 58, 2)
    assert found.samples_per_s == pytest.approx(1000 / 13.0514)


def test_an_older_build_has_no_median():
    found = adb.parse(OLD, ROW)
    assert found.latency is not None
    assert (found.latency.mean_ms, found.latency.p50_ms, found.latency.min_ms) == (2950.34, 2950.34, 2727.568)
    assert (found.latency.warmup, found.peak_bytes, found.partitions) == (1, None, None)
    assert not adb.has_median([found])
    assert adb.has_median([adb.parse(CPU, ROW)])


def test_a_run_without_times_says_why():
    found = adb.parse(BROKEN, ROW)
    assert found.latency is None
    assert found.failure == (
        "model.tflite (4 threads): benchmark_model gave no times: ERROR: Didn't find op for builtin opcode 'GELU' version '2'."
    )
    assert "it printed nothing" in str(adb.parse("", ROW).failure)
    assert "stopped after 5 s" in str(adb.parse("", ROW, problem="stopped after 5 s").failure)


def test_a_gpu_that_takes_nothing_is_no_gpu():
    found = adb.parse(UNUSED, ROW, gpu=True)
    assert found.latency is None
    assert "the GPU takes none of its ops" in str(found.failure)
    assert adb.parse(GPU, ROW, gpu=True).failure is None


def test_a_report_of_a_phone(phone, model, tmp_path):
    binary = program(tmp_path / "benchmark_model")
    report = on_device([model], None, DeviceConfig(binary, gpu=True, runs=50))
    assert report.machine == "Google Pixel 7, Android 14 (API 34), arm64-v8a, armeabi-v7a, benchmark_model over adb"
    assert report.versions == ("my model ×1", "my model ×2", "my model ×4", "my model GPU")
    assert [row.threads for row in report.rows] == [1, 2, 4, 1]
    assert report.rows[1].path == f"{model} (CPU, 2 threads)"
    assert report.rows[1].runtime == "CPU, 2 threads"
    assert all(row.latency and row.gzip_bytes for row in report.rows)
    assert report.notes == ()
    log = (phone / "log").read_text()
    assert log.count(f"push {model} /data/local/tmp/edgekit-") == 1
    assert "--num_threads=4 --num_runs=50 --warmup_runs=10\n" in log
    assert "--use_gpu=true" in log
    assert list((phone / "phone/data/local/tmp").iterdir()) == []
    assert Report.from_json(report.json()) == report
    assert "| my model GPU | GPU |" in markdown(report)
    assert "The median." in page(report)


def test_an_older_build_is_noted(phone, model, tmp_path):
    (phone / "cpu").write_text(OLD)
    report = on_device([model], "P1", DeviceConfig(program(tmp_path / "b"), threads=(2,)))
    assert report.notes == ("This benchmark_model prints no median, so p50 holds the mean.",)


@pytest.mark.parametrize(
    ("devices", "serial", "told"),
    [
        ("", None, "no device; plug in a phone"),
        ("P1\tdevice\nP2\tdevice\nP3\toffline\n", None, "several devices: P1, P2; choose one with --device adb:SERIAL"),
        ("P1\tdevice\nP2\tdevice\n", "P9", "no device P9; attached: P1, P2"),
        ("P1\tunauthorized usb:1-1\n", None, "P1: unauthorized; unlock it"),
        ("P1\tno permissions (missing udev rules?); see [http://developer.android.com]\n", None, "P1: no permissions; unlock it"),
    ],
)
def test_which_phone(phone, devices, serial, told):
    (phone / "devices").write_text(f"* daemon started successfully\nList of devices attached\n{devices}\n")
    with pytest.raises(InputError, match=told):
        adb.find(serial)


def test_one_of_several(phone):
    (phone / "devices").write_text("List of devices attached\nP1\tdevice\nP2\tdevice\n")
    assert adb.find("P2").serial == "P2"


def test_without_adb(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="adb: not installed; install Android's platform tools"):
        adb.find(None)


def test_what_is_no_benchmark_model(phone, model, tmp_path):
    device = adb.find(None)
    config = DeviceConfig(program(tmp_path / "b", machine=62))
    with pytest.raises(InputError, match="is built for x86_64, Google Pixel 7, Android 14"):
        adb.benchmark([model], device, config)
    (tmp_path / "b").write_text("#!/bin/sh\n")
    with pytest.raises(InputError, match="no ELF header"):
        adb.benchmark([model], device, config)
    with pytest.raises(InputError, match="cannot be read"):
        adb.benchmark([model], device, replace(config, binary=tmp_path / "none"))


@pytest.mark.parametrize(("trouble", "told"), [("full", "cannot be pushed to P1 .*No space left"), ("gone", "P1 went away")])
def test_a_phone_that_fails_is_left_clean(phone, model, tmp_path, trouble, told):
    (phone / trouble).touch()
    with pytest.raises(InputError, match=told):
        adb.benchmark([model], adb.find(None), DeviceConfig(program(tmp_path / "b")))
    assert list((phone / "phone/data/local/tmp").iterdir()) == []


def test_the_command(phone, model, tmp_path):
    extra = {"PATH": f"{phone / 'bin'}:/usr/bin:/bin"}
    binary = program(tmp_path / "benchmark_model")
    arguments = ("benchmark", model, "--device", "adb", "--benchmark-binary", binary, "--threads", "2", "--quiet")
    said = edgekit(*arguments, "--json", extra=extra)
    assert (said.code, said.err) == (0, [])
    assert [row["threads"] for row in json.loads(said.out)["rows"]] == [2]
    (phone / "cpu").write_text(BROKEN)
    assert edgekit(*arguments, extra=extra).code == 4
    (phone / "devices").write_text("List of devices attached\n")
    said = edgekit(*arguments, extra=extra)
    assert said.code == 3
    assert len(said.err) == 1
    assert "adb: no device; plug in a phone" in said.err[0]


@pytest.mark.parametrize("wrong", ["--device adb", "--gpu", "--device adb --benchmark-binary b --dataset x.tsv", "--device usb"])
def test_options_that_do_not_go_together(model, wrong):
    assert edgekit("benchmark", model, *wrong.split()).code == 2


@pytest.mark.parametrize(
    ("device", "serial"), [("adb", None), ("adb:emulator-5554", "emulator-5554"), ("adb:10.0.0.2:5555", "10.0.0.2:5555")]
)
def test_device_option(device, serial):
    assert adb.serial_of(device) == serial


@pytest.mark.parametrize("device", ["", "adb:", "usb", "adbx:1"])
def test_device_option_refused(device):
    with pytest.raises(ConfigError, match="give adb, or adb:SERIAL"):
        adb.serial_of(device)
