"""`nxm-sweep speed`: which layers qualify, what is timed, and that results reach report and card; times are stand-ins."""

from __future__ import annotations

import json
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor
from torch.sparse import SparseSemiStructuredTensorCUSPARSELT, SparseSemiStructuredTensorCUTLASS
from transformers import BertConfig, GPT2Config

from nxm_sweep.errors import MeasurementError, ModelError, OutOfMemoryError
from nxm_sweep.sparsity.semi_structured import make_sparse
from nxm_sweep.speed import __main__ as command
from nxm_sweep.speed import measure, tensorrt
from nxm_sweep.speed.layers import list_layers
from nxm_sweep.speed.measure import Measurement, list_backends, time_product
from nxm_sweep.store.speeds import SCHEMA, Speed, SpeedLayer, of_shapes, read_speeds, total, write_speed

CPU = torch.device("cpu")
needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")


def config(**changes: Any) -> BertConfig:
    sizes = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 128}
    return BertConfig(**{"vocab_size": 50, **sizes, **changes}, architectures=["BertForSequenceClassification"])


def layer(rows: int, columns: int, count: int = 1, **milliseconds: float) -> SpeedLayer:
    kernels = ["cuSPARSELt", "CUTLASS"]
    return SpeedLayer(
        role=f"{rows}x{columns}", count=count, rows=rows, columns=columns, kernels=kernels, refusal="",
        milliseconds=milliseconds,
    )  # fmt: skip


def speed(*layers: SpeedLayer, **changes: Any) -> Speed:
    values: dict[str, Any] = {
        "schema": SCHEMA, "model": "bert", "device": "NVIDIA H200", "dtype": "float16", "batch": 32, "length": 128,
        "versions": {"torch": "2.13.0"}, "written": "2026-11-28T12:00:00+00:00", "layers": list(layers), **changes,
    }  # fmt: skip
    return cast("Speed", values)


def stand_in(times: dict[str, float], seen: list[str] | None = None) -> dict[str, Any]:
    """Return a timer and a conversion for a machine without a GPU: the time of a product is that of its weight's kernel."""
    kernels: dict[int, str] = {}
    alive: list[Tensor] = []  # no address is used again

    def convert(weight: Tensor, backend: str) -> Tensor:
        converted = weight.clone()
        alive.append(converted)
        kernels[converted.data_ptr()] = backend
        return converted

    def time(product: Callable[[], Tensor]) -> float:
        weight = next(
            cell.cell_contents
            for cell in product.__closure__ or ()
            if cell.cell_contents.ndim == 2 and cell.cell_contents.shape[0] != 24
        )
        name = kernels.get(weight.data_ptr(), "dense")
        if seen is not None:
            seen.append(name)
        return times[name]

    return {"make_sparse": convert, "time": time}


# --- which layers -----------------------------------------------------------------------------------------------------


def test_layers_are_those_of_the_rule_by_role_and_shape() -> None:
    layers = list_layers(config(), "layer*.[0-9]*.*")
    role = "bert.encoder.layer.*."
    assert [(each["role"].removeprefix(role), each["count"], each["rows"], each["columns"]) for each in layers] == [
        ("attention.self.query", 3, 64, 64),
        ("attention.self.key", 3, 64, 64),
        ("attention.self.value", 3, 64, 64),
        ("attention.output.dense", 3, 64, 64),
        ("intermediate.dense", 3, 128, 64),
        ("output.dense", 3, 64, 128),
    ]
    assert all(each["kernels"] == ["cuSPARSELt", "CUTLASS"] and not each["milliseconds"] for each in layers)


def test_shape_that_no_kernel_takes_is_listed_with_the_reason() -> None:
    layers = list_layers(config(hidden_size=36), "layer*.[0-9]*.*")
    assert {(each["rows"], each["columns"]): (each["kernels"], each["refusal"]) for each in layers} == {
        (36, 36): ([], "36 rows: no multiple of 16"),
        (128, 36): ([], "36 columns: no multiple of 16"),
        (36, 128): ([], "36 rows: no multiple of 16"),
    }
    (first, *_) = list_layers(config(hidden_size=48), "*.query")
    assert first["kernels"] == ["cuSPARSELt"]  # CUTLASS takes multiples of 32 and 64


def test_layers_of_gpt2_are_listed_by_their_inputs_and_qualify_for_no_kernel() -> None:
    sizes = GPT2Config(n_embd=64, n_layer=2, n_head=2, vocab_size=50, architectures=["GPT2LMHeadModel"])
    layers = {each["role"]: each for each in list_layers(sizes, "h.*")}
    first = layers["transformer.h.*.attn.c_attn"]
    assert (first["rows"], first["columns"], first["kernels"]) == (192, 64, [])
    assert first["refusal"] == "its inputs are stored first"


def test_rule_that_matches_nothing_names_the_layers() -> None:
    with pytest.raises(ModelError, match=r"'nowhere\.\*' matches none of the model's 20 linear layers") as caught:
        list_layers(config(), "nowhere.*")
    assert "bert.encoder.layer.0.attention.self.query" in caught.value.hint


def test_large_model_takes_no_memory_for_weights() -> None:
    layers = list_layers(config(hidden_size=16384, intermediate_size=65536, num_attention_heads=128), "*.layer.*")
    assert sum(each["count"] * each["rows"] * each["columns"] for each in layers) == 3 * (
        4 * 16384**2 + 2 * 16384 * 65536
    )


# --- what is timed ----------------------------------------------------------------------------------------------------


def test_dense_and_sparse_are_timed_in_turn_and_a_shape_once() -> None:
    seen: list[str] = []
    times = {"dense": 2.0, "cuSPARSELt": 1.0, "CUTLASS": 1.5}
    measurement = Measurement(24, torch.float16, ["cuSPARSELt", "CUTLASS"], CPU, **stand_in(times, seen))
    layers = list_layers(config(), "layer*.[0-9]*.*")
    measured = list(measurement.run(layers))
    assert [each["role"] for each in measured] == [each["role"] for each in layers]
    assert all(each["milliseconds"] == times for each in measured)
    assert seen == ["dense", "cuSPARSELt", "CUTLASS"] * 3 * 3  # three rounds of each of three shapes


def test_only_the_kernels_of_the_device_and_of_the_shape_are_timed() -> None:
    times = {"dense": 2.0, "cuSPARSELt": 1.0, "CUTLASS": 1.5}
    narrow, wide = list_layers(config(hidden_size=48), "layer.0.attention.self.query|layer.0.intermediate.dense")
    narrow["kernels"], wide["kernels"] = ["cuSPARSELt"], []
    measured = list(
        Measurement(24, torch.float16, ["cuSPARSELt", "CUTLASS"], CPU, **stand_in(times)).run([narrow, wide])
    )
    assert [each["milliseconds"] for each in measured] == [{"dense": 2.0, "cuSPARSELt": 1.0}, {}]


def test_products_that_are_timed_are_those_of_a_two_of_four_matrix_of_the_layers_shape() -> None:
    shapes = []

    def time(product: Callable[[], Tensor]) -> float:
        output = product()
        inputs, weight = sorted(
            (cell.cell_contents for cell in product.__closure__ or () if cell.cell_contents.ndim == 2), key=len
        )
        shapes.append((tuple(inputs.shape), tuple(weight.shape), tuple(output.shape), output.dtype))
        assert int((weight.reshape(-1, 4) != 0).sum(1).max()) == 2
        return 1.0

    convert = lambda weight, _backend: weight  # noqa: E731
    (first,) = list_layers(config(), "layer.0.intermediate.dense")
    list(Measurement(24, torch.bfloat16, ["cuSPARSELt"], CPU, time=time, make_sparse=convert).run([first]))
    assert set(shapes) == {((24, 64), (128, 64), (24, 128), torch.bfloat16)}


def test_kernel_that_computes_something_else_is_an_error_and_writes_nothing() -> None:
    wrong: dict[str, Any] = {"make_sparse": lambda weight, _: weight * 1.1, "time": lambda _: 1.0}
    measurement = Measurement(24, torch.float16, ["CUTLASS"], CPU, **wrong)
    with pytest.raises(
        MeasurementError, match=r"CUTLASS differs from the dense product of 64 x 64 by 0\.\d+ \(relative\)"
    ):
        list(measurement.run(list_layers(config(), "*.query")))


def test_lack_of_memory_is_one_line() -> None:
    def exhaust(*_: Any) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    measurement = Measurement(24, torch.float16, ["CUTLASS"], CPU, make_sparse=exhaust)
    with pytest.raises(OutOfMemoryError, match="too little memory for 24 tokens of 64 x 64"):
        list(measurement.run(list_layers(config(), "*.query")))


def test_timer_returns_the_milliseconds_of_pytorchs_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "_SECONDS", 0.01)
    large, small = torch.randn(400, 400), torch.randn(2, 2)
    slow, quick = (time_product(partial(torch.matmul, matrix, matrix)) for matrix in (large, small))
    assert 0.0 < quick < slow < 1e4


@pytest.mark.parametrize(
    ("backend", "kind"),
    [("CUTLASS", SparseSemiStructuredTensorCUTLASS), ("cuSPARSELt", SparseSemiStructuredTensorCUSPARSELT)],
)
def test_conversion_is_that_of_the_backend(backend: str, kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """Converting needs a GPU: here only that the right class of PyTorch is asked."""
    weight = torch.zeros(32, 64, dtype=torch.float16)
    monkeypatch.setattr(kind, "from_dense", lambda dense: (kind, dense))
    converted: Any = make_sparse(weight, backend)
    assert converted[0] is kind
    assert converted[1] is weight


@needs_no_gpu
def test_no_backend_without_a_gpu() -> None:
    assert list_backends(CPU) == []
    assert list_backends(torch.device("cuda")) == []


# --- TensorRT through ONNX Runtime ------------------------------------------------------------------------------------


def test_engine_gets_the_layer_and_sparsity_is_the_only_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """The session runs on ONNX Runtime's CPU kernels here, with the options that TensorRT would get."""
    given: list[dict[str, Any]] = []
    real = onnxruntime.InferenceSession

    def session(content: bytes, providers: list[tuple[str, dict[str, Any]]]) -> Any:
        ((name, options),) = providers
        assert name == "TensorrtExecutionProvider"
        given.append(options)
        return real(content, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    weight, inputs = torch.randn(32, 64).half(), torch.randn(24, 64).half()
    calls: list[Callable[[], Any]] = []
    times = iter([3.0, 2.0])

    def time(call: Callable[[], Any]) -> float:
        calls.append(call)
        call()
        return next(times)

    assert tensorrt.measure(weight, inputs, time) == {"TensorRT dense": 3.0, "TensorRT": 2.0}
    common = {"device_id": 0, "trt_fp16_enable": True}
    assert given == [{**common, "trt_sparsity_enable": False}, {**common, "trt_sparsity_enable": True}]
    assert tensorrt.measure(weight.bfloat16(), inputs.bfloat16(), time) == {}


def test_onnx_file_of_a_layer_is_its_product() -> None:
    weight, inputs = torch.randn(32, 64).half(), torch.randn(24, 64).half()
    session = onnxruntime.InferenceSession(tensorrt.make_model(weight, 24), providers=["CPUExecutionProvider"])
    (outputs,) = session.run(None, {"x": inputs.numpy()})
    assert np.allclose(outputs, (inputs @ weight.T).numpy(), atol=0.1)


def test_engine_is_left_out_where_onnx_runtime_has_no_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert not tensorrt.has_tensorrt()
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["TensorrtExecutionProvider"])
    assert tensorrt.has_tensorrt()


# --- totals and files -------------------------------------------------------------------------------------------------


def test_total_weighs_by_count_and_a_layer_without_the_kernel_is_dense() -> None:
    summary = total(
        [layer(64, 64, 3, dense=2.0, cuSPARSELt=1.5, CUTLASS=3.0), layer(128, 64, 2, dense=4.0, CUTLASS=1.0)]
    )
    assert summary is not None
    assert summary.dense == 3 * 2.0 + 2 * 4.0
    assert summary.sparse == {"CUTLASS": 3 * 3.0 + 2 * 1.0, "cuSPARSELt": 3 * 1.5 + 2 * 4.0}
    assert summary.best == ("CUTLASS", 11.0)
    assert summary.speedup == 14.0 / 11.0
    assert summary.tensorrt is None


def test_total_of_engines_needs_every_layer() -> None:
    whole = layer(64, 64, 2, dense=2.0, CUTLASS=1.0, **{"TensorRT dense": 1.5, "TensorRT": 1.0})
    summary = total([whole])
    assert summary is not None
    assert summary.tensorrt == (3.0, 2.0)
    incomplete = total([whole, layer(32, 64, dense=1.0, CUTLASS=1.0)])
    assert incomplete is not None
    assert incomplete.tensorrt is None
    assert total([layer(64, 64)]) is None


def test_file_is_read_back_and_replaces_the_one_of_the_same_setting(tmp_path: Path) -> None:
    first = speed(layer(64, 64, dense=2.0, CUTLASS=1.0), model="google-bert/bert-base-cased")
    path = write_speed(tmp_path, first)
    assert path == tmp_path / "speed/google-bert-bert-base-cased-NVIDIA-H200-float16-32x128.json"
    again = speed(layer(64, 64, dense=3.0, CUTLASS=1.0), model="google-bert/bert-base-cased")
    assert write_speed(tmp_path, again) == path
    write_speed(tmp_path, speed(layer(64, 64, dense=9.0, CUTLASS=1.0), batch=64))
    assert {each["batch"]: each["layers"][0]["milliseconds"]["dense"] for each in read_speeds(tmp_path)} == {
        32: 3.0,
        64: 9.0,
    }


@pytest.mark.parametrize("text", ["", "[]", '{"schema": 1}', json.dumps(speed(layer(8, 8, dense=0.0, CUTLASS=1.0)))])
def test_damaged_file_is_ignored(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "speed").mkdir()
    (tmp_path / "speed/a.json").write_text(text)
    write_speed(tmp_path, speed(layer(64, 64, dense=2.0, CUTLASS=1.0)))
    assert len(read_speeds(tmp_path)) == 1


@pytest.mark.parametrize("name", ["../../evil", "a/b", "..", "\x1b[31mx", "x" * 300])
def test_name_of_a_model_leads_to_no_other_folder(name: str, tmp_path: Path) -> None:
    path = write_speed(tmp_path, speed(layer(64, 64, dense=2.0, CUTLASS=1.0), model=name))
    assert path.parent == tmp_path / "speed"
    assert len(path.name) < 200
    assert path.name.isprintable()


def test_measurement_says_nothing_of_a_model_with_a_shape_that_it_lacks() -> None:
    measured = speed(layer(64, 64, 9, dense=2.0, CUTLASS=1.0), layer(32, 64))
    summary = of_shapes(measured, [(64, 64), (64, 64)])
    assert summary is not None
    assert (summary.dense, summary.sparse) == (4.0, {"CUTLASS": 2.0})  # two matrices, however many the other model has
    assert of_shapes(measured, [(64, 64), (64, 128)]) is None
    assert of_shapes(measured, [(32, 64)]) is None  # listed, not measured
    assert of_shapes(measured, []) is None


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def model(tmp_path: Path) -> Path:
    config().save_pretrained(tmp_path / "my-bert")
    return tmp_path / "my-bert"


@pytest.fixture
def with_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a GPU, as far as the command asks: products run on the CPU and their times are stand-ins."""
    monkeypatch.setattr(measure, "list_backends", lambda _device: ["cuSPARSELt"])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device=None: "NVIDIA H200")
    parts = stand_in({"dense": 2.0, "cuSPARSELt": 1.25})

    def make(tokens: int, dtype: torch.dtype, backends: list[str], _device: torch.device) -> Measurement:
        assert tokens == 24
        return Measurement(tokens, dtype, backends, CPU, **parts)

    monkeypatch.setattr(measure, "Measurement", make)


@needs_no_gpu
def test_machine_without_a_gpu_is_told_so_with_the_table_and_exit_code_1(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([str(model), "--output-dir", str(tmp_path / "outputs")]) == 1
    printed = capsys.readouterr()
    assert printed.err == (
        "not measured: this machine has no CUDA device that PyTorch sees, and 2:4 kernels run on nothing else. "
        "The table shows which kernels take each shape.\n"
    )
    assert [line.split() for line in printed.out.splitlines()][-1] == [
        "bert.encoder.layer.*.output.dense", "3", "64", "x", "128", "cuSPARSELt,", "CUTLASS",
    ]  # fmt: skip
    assert not (tmp_path / "outputs").exists()


@needs_no_gpu
def test_output_on_the_page_is_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes: Any = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
    BertConfig(**sizes, architectures=["BertModel"]).save_pretrained(tmp_path)  # the packaged MiniLM's
    assert command.main([str(tmp_path)]) == 1
    printed = capsys.readouterr()
    page = (Path(__file__).resolve().parents[2] / "docs/shipping.md").read_text()
    shown = [line.rstrip() for line in (printed.out + printed.err).splitlines()]
    assert f"```text\n{chr(10).join(shown)}\n```" in page


def test_command_measures_prints_and_writes(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], with_kernels: None
) -> None:
    code = command.main([str(model), "--batch", "3", "--length", "8", "--output-dir", str(tmp_path / "outputs")])
    printed = capsys.readouterr().out
    assert code == 0
    assert "1.2500 (1.60x)" in printed
    # 18 layers of 2 and 1.25 ms
    assert (
        "NVIDIA H200, float16, batch 3 x 8 tokens: all linear layers take 36.000 ms dense and 22.500 ms with cuSPARSELt, "
        "1.60 times as fast" in printed
    )
    assert "TensorRT was not measured" in printed
    (measured,) = read_speeds(tmp_path / "outputs")
    assert (measured["model"], measured["batch"], measured["length"]) == ("my-bert", 3, 8)
    assert sum(each["count"] for each in measured["layers"]) == 18


def test_old_gpu_is_named(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "Tesla T4")
    reason = command._explain_absence(torch.device("cuda"), [])
    assert reason.startswith("Tesla T4 (compute capability 7.5) has no 2:4 kernels with PyTorch")
    assert command._explain_absence(torch.device("cuda"), ["CUTLASS"]) == "no layer has a shape that CUTLASS takes"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch", "0"], "--batch must be in [1, 1,048,576] but got 0"),
        (["--length", "-3"], "--length must be in [1, 1,048,576] but got -3"),
        (["--match", "nowhere"], "'nowhere' matches none of the model's 20 linear layers"),
    ],
)
def test_bad_options_are_one_line(
    arguments: list[str], message: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([str(model), *arguments]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.out == ""
    assert len(printed.err.splitlines()) <= 2


@pytest.mark.parametrize(
    "content", [None, "{", "{}", '{"model_type": "nothing"}', '{"model_type": "bert", "hidden_size": "x"}']
)
def test_bad_model_is_one_line(content: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "model"
    if content is not None:
        folder.mkdir()
        (folder / "config.json").write_text(content)
    assert command.main([str(folder)]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert len(printed.err.splitlines()) <= 2


# --- report and card --------------------------------------------------------------------------------------------------


def test_measurement_reaches_every_format_of_the_report(tmp_path: Path) -> None:
    import shutil

    from nxm_sweep.report.content import Content
    from nxm_sweep.report.formats.html import render
    from nxm_sweep.report.formats.markdown import markdown
    from nxm_sweep.report.formats.plain import to_json
    from nxm_sweep.report.frames import read_report
    from nxm_sweep.report.statistics import compare
    from nxm_sweep.report.table import make_table

    example = Path(__file__).resolve().parents[2] / "outputs/examples/rte-mrpc"
    folder = Path(shutil.copytree(example, tmp_path / "outputs", ignore=shutil.ignore_patterns("reports", "studies")))

    def texts() -> list[str]:
        report = read_report([folder])
        content = Content(report, make_table(report, "best"), compare(report))
        return [markdown(content), render(content, []), to_json(content)]

    assert not any("2:4 kernels" in text or "H200" in text for text in texts())
    evil = "<b>evil</b>|`x`"
    write_speed(folder, speed(layer(64, 64, 3, dense=2.0, CUTLASS=1.25), model=evil))
    table, page, data = texts()
    assert r"| NVIDIA H200 | float16 | 32 x 128 | 6.000      | 3.750    | CUTLASS  | 1.60" in table
    assert "<b>evil" not in table
    assert "<b>evil" not in page
    assert "Speed of 2:4 kernels" in page
    assert "&lt;b&gt;evil" in page
    assert '<td class="words">1.60</td>' in page
    (stored,) = json.loads(data)["speeds"]
    assert stored["model"] == evil


def test_measurement_that_knows_the_models_shapes_is_on_its_card(tmp_path: Path) -> None:
    from nxm_sweep.export.manifest import Manifest, ManifestTarget
    from nxm_sweep.export.model_card import folder_card
    from nxm_sweep.sparsity import Constraint, Pattern

    def card(constraint: Constraint, *speeds: Speed) -> str:
        targets = tuple(ManifestTarget(f"layer.{index}.weight", (64, 64), constraint, 2048) for index in range(2))
        source: Any = types.SimpleNamespace(config=config(), head=None, reason="sparsity.json")
        from nxm_sweep.export.usage import CLASSIFIER

        source.head = CLASSIFIER
        return folder_card(source, Manifest("dense", targets, {}), licence=None, dtype="float32", speeds=speeds)

    known, other = speed(layer(64, 64, 9, dense=2.0, CUTLASS=1.25)), speed(layer(32, 64, dense=1.0, CUTLASS=0.5))
    assert "## Speed" not in card(Pattern(2, 4))
    assert "## Speed" not in card(Pattern(2, 4), other)
    assert "## Speed" not in card(Pattern(4, 8), known)  # which no kernel takes
    text = card(Pattern(2, 4), other, known)
    assert "| NVIDIA H200 | float16 | 32 x 128 | 4.000 | 2.500 (CUTLASS) | 1.60 |" in text
