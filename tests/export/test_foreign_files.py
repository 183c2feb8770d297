"""`nxm_sweep.verify` on files as other tools write them: which file is read, what is unpacked, what is not read at all."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModel, BertConfig, BertModel, GPT2Config, GPT2Model, ResNetConfig, ResNetModel

from nxm_sweep.export.audit import open_model
from nxm_sweep.sparsity import Constraint, Pattern, project
from nxm_sweep.verify import main

TWO_OF_FOUR = Pattern(2, 4)
NAME = "encoder.layer.0.query.weight"
ROWS, COLUMNS = 32, 64


class Verified:
    """What the command answered."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> None:
        self.code = main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        self.out, self.err = printed.out, printed.err.replace("\n", " ")


@pytest.fixture
def verify(capsys: pytest.CaptureFixture[str]) -> Any:
    return lambda *arguments: Verified(capsys, *arguments)


def pruned(constraint: Constraint = TWO_OF_FOUR, *, seed: int = 1, rows: int = ROWS) -> Tensor:
    return project(torch.randn(rows, COLUMNS, generator=torch.Generator().manual_seed(seed)), constraint)


def dense(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(9))


def saved(folder: Path, state: dict[str, Tensor], name: str = "model.safetensors") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in state.items()}, folder / name)
    return folder


# --- which file -------------------------------------------------------------------------------------------------------


def tiny_bert(*, is_pruned: bool) -> BertModel:
    torch.manual_seed(0)
    config = BertConfig(vocab_size=20, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    model = BertModel(config)
    if is_pruned:
        for module in model.encoder.modules():
            if isinstance(module, torch.nn.Linear):
                module.weight.data = project(module.weight.data, TWO_OF_FOUR)
    return model


@pytest.mark.fault(
    "model",
    "a stale index of shards, or an ONNX file, beside a model.safetensors",
    "the file that `from_pretrained` takes is the one that is verified",
)
@pytest.mark.parametrize("trap", ["index", "onnx", "transformers_weights"])
def test_the_file_that_from_pretrained_takes_is_read(tmp_path: Path, verify: Any, trap: str) -> None:
    tiny_bert(is_pruned=False).save_pretrained(tmp_path)
    loaded = "model.safetensors"
    state = {key: value.contiguous() for key, value in tiny_bert(is_pruned=True).state_dict().items()}
    match trap:
        case "index":
            saved(tmp_path, state, "old.safetensors")
            index = {"metadata": {}, "weight_map": dict.fromkeys(state, "old.safetensors")}
            (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
        case "onnx":
            onnx.save(product(pruned().numpy().T), tmp_path / "model.onnx")
        case _:
            loaded = "new.safetensors"
            save_file(state, tmp_path / loaded, metadata={"format": "pt"})
            config = json.loads((tmp_path / "config.json").read_text())
            (tmp_path / "config.json").write_text(json.dumps({**config, "transformers_weights": loaded}))
    model = AutoModel.from_pretrained(tmp_path)
    zeros = int((model.encoder.layer[0].attention.self.query.weight == 0).sum())
    assert zeros == (512 if loaded == "new.safetensors" else 0)  # what Transformers takes
    weights = open_model(tmp_path)
    assert weights.paths == (loaded,)
    assert verify(tmp_path).code == (0 if zeros else 1)


# --- other tools' storage ---------------------------------------------------------------------------------------------


def bitmask(weight: Tensor, *, kind: str) -> dict[str, Tensor]:
    """A matrix as compressed-tensors stores it; its ``sparse-24-bitmask`` leaves out ``.weight`` and row offsets."""
    mask = weight != 0
    bits = torch.from_numpy(np.packbits(mask.numpy(), axis=-1, bitorder="little"))
    base = NAME if kind == "bitmask" else NAME.removesuffix(".weight")
    values = weight[mask] if kind == "bitmask" else weight[mask].reshape(ROWS, COLUMNS // 2)
    parts = {".compressed": values, ".bitmask": bits, ".shape": torch.tensor([[ROWS], [COLUMNS]])}
    if kind == "bitmask":
        parts[".row_offsets"] = mask.sum(1).cumsum(0) - mask.sum(1)
    return {base + suffix: value for suffix, value in parts.items()}


@pytest.mark.fault(
    "model",
    "a model to verify that compressed-tensors has stored with bitmasks",
    "its matrices are unpacked and counted",
)
@pytest.mark.parametrize("kind", ["bitmask", "24-bitmask"])
def test_bitmask_is_unpacked(tmp_path: Path, verify: Any, kind: str) -> None:
    weight = pruned()
    folder = saved(tmp_path, {**bitmask(weight, kind=kind), "layer.norm.weight": dense(64)})
    assert torch.equal(open_model(folder).matrix(NAME), weight)
    answer = verify(folder)
    assert (answer.code, answer.err) == (0, "")
    assert "note: compressed with a bitmask, and unpacked: 1, such as encoder.layer.0.query.weight" in answer.out
    assert "holds: 1 of 1 targets hold exactly 2 of 4; untouched matrices: 0" in answer.out


def test_bitmask_that_does_not_fit_is_bad_input(tmp_path: Path, verify: Any) -> None:
    state = bitmask(pruned(), kind="bitmask")
    state[f"{NAME}.bitmask"][0, 0] ^= 255
    state[f"{NAME}.bitmask"][1, 0] = 255
    answer = verify(saved(tmp_path, state))
    assert answer.code == 2
    assert "its bitmask does not fit its values" in answer.err


@pytest.mark.fault(
    "model",
    "a model to verify in fp8, or in int8 with its zero at 0",
    "its zeros are exact, so it is read and counted; its scales are held to no pattern",
)
@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_8_bit_weights_are_read(tmp_path: Path, verify: Any, dtype: torch.dtype) -> None:
    weight = pruned().clamp(-3, 3)
    stored = (weight * 10).sign().mul(5).to(dtype)
    scales = torch.zeros(ROWS, 8)
    scales[:, ::4] = 0.1  # 1 of 4, by accident
    folder = saved(tmp_path, {NAME: stored, f"{NAME}_scale": scales, "x.weight_scale_inv": scales.clone()})
    answer = verify(folder)
    assert (answer.code, answer.err) == (0, "")
    assert "note: stored in 8 bits, where a zero is exact: 1, such as" in answer.out
    assert answer.out.endswith("holds: 1 of 1 targets hold exactly 2 of 4; untouched matrices: 0\n")


UNREAD: dict[str, dict[str, Tensor]] = {
    "int8 with zero points": {
        NAME: torch.ones(ROWS, COLUMNS, dtype=torch.int8),
        f"{NAME}_scale": torch.ones(ROWS, 1),
        f"{NAME}_zero_point": torch.ones(ROWS, 1, dtype=torch.int8),
    },
    "int4 in int32": {
        "encoder.layer.0.query.qweight": torch.ones(8, ROWS, dtype=torch.int32),
        "encoder.layer.0.query.qzeros": torch.ones(2, 4, dtype=torch.int32),
        "encoder.layer.0.query.scales": torch.ones(2, ROWS, dtype=torch.float16),
        "encoder.layer.0.query.g_idx": torch.zeros(COLUMNS, dtype=torch.int32),
    },
    "nf4": {NAME: torch.ones(1024, 1, dtype=torch.uint8), f"{NAME}.absmax": torch.ones(32)},
    "parts of a packed matrix": {f"{NAME}.packed": dense(ROWS, 32), f"{NAME}.compressed": dense(ROWS, 32)},
    "three dimensions": {"encoder.layer.0.experts.down_proj": dense(4, 8, 8)},
}


@pytest.mark.fault(
    "model",
    "a model to verify whose weights are packed integers, or have three dimensions",
    "exit code 2 with a weight and how it is stored; it is never called not sparse",
)
@pytest.mark.parametrize("kind", UNREAD)
@pytest.mark.parametrize("options", [(), ("--pattern", "2of4")], ids=["looking", "held"])
def test_what_is_not_read_is_named(tmp_path: Path, verify: Any, kind: str, options: tuple[str, ...]) -> None:
    state = {**UNREAD[kind], "classifier.weight": dense(2, 32)}
    answer = verify(saved(tmp_path, state), *options)
    assert answer.code == 2
    assert next(iter(UNREAD[kind])).removesuffix(".packed") in answer.err
    assert "which is not read: nothing is known of its zeros" in answer.err
    assert "not sparse" not in answer.out + answer.err


def test_pattern_elsewhere_holds_although_something_is_not_read(tmp_path: Path, verify: Any) -> None:
    folder = saved(tmp_path, {"encoder.layer.1.query.weight": pruned(), **UNREAD["int8 with zero points"]})
    answer = verify(folder, "--pattern", "2of4", "--match", "layer.1.*")
    assert answer.code == 0
    assert f"not read: 1, such as {NAME}, I8 of 32 x 64" in answer.out


@pytest.mark.fault(
    "model",
    "300 safetensors files of tensors whose names, types and shapes do not fit each other",
    "each is read, or refused in two lines",
)
def test_tensors_of_any_kind_give_an_answer(tmp_path: Path, verify: Any) -> None:
    dice = random.Random(21)
    names = [
        "a.weight",
        "a.bias",
        "a.weight_scale",
        "a.weight_zero_point",
        "c.packed",
        "c.meta",
        "conv.weight",
        "wte.weight",
    ]
    names += [
        "b.weight.compressed",
        "b.weight.bitmask",
        "b.weight.shape",
        "b.weight.row_offsets",
        "q.qweight",
        "conv.bias",
    ]
    shapes = [(), (0,), (4,), (4, 8), (8, 4), (1, 8), (0, 4), (4, 0), (2, 2, 2), (4, 4, 1, 1), (0, 2, 3, 3)]
    types = [torch.float32, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.int8, torch.uint8, torch.int64]
    options: list[list[str]] = [[], ["--pattern", "2of4", "--match", "*"], ["--density", "0.5", "--match", "*"]]
    codes = set()
    for _ in range(300):
        chosen = dice.sample(names, dice.randint(1, len(names)))
        state = {name: torch.zeros(dice.choice(shapes)).to(dice.choice(types)) for name in chosen}
        if dice.random() < 0.3:
            state["b.weight.shape"] = torch.tensor([dice.choice([4, -1, 10**9, 0]), 8])
        answer = verify(saved(tmp_path, state), *dice.choice(options))
        codes.add(answer.code)
        assert answer.code != 2 or answer.err.startswith("error: ")
    assert codes == {0, 1, 2}


def test_zero_points_that_do_not_fit_are_bad_input(tmp_path: Path, verify: Any) -> None:
    product_of_eight = product((SIGNS * 5).astype(np.int8), kind="MatMulInteger", zero=np.zeros(3, np.int8))
    onnx.save(product_of_eight, tmp_path / "model.onnx")
    answer = verify(tmp_path)
    assert answer.code == 2
    assert "has 3 zero points for (64, 32)" in answer.err


def test_file_without_a_matrix_is_bad_input(tmp_path: Path, verify: Any) -> None:
    answer = verify(saved(tmp_path, {"norm.weight": torch.zeros(8), "position_ids": torch.arange(8)[None]}))
    assert answer.code == 2
    assert "model.safetensors holds no weight matrix" in answer.err


@pytest.mark.fault(
    "model",
    "an embedding table or a scale whose zeros look like a pattern",
    "it is held to no pattern",
)
@pytest.mark.parametrize(
    "name", ["bert.embeddings.word_embeddings", "model.embed_tokens", "h.wte", "shared", "word_embedding"]
)
def test_embeddings_are_held_to_no_pattern(tmp_path: Path, verify: Any, name: str) -> None:
    folder = saved(tmp_path, {f"{name}.weight": pruned(), "encoder.layer.0.query.weight": dense(ROWS, COLUMNS)})
    answer = verify(folder)
    assert answer.code == 1
    assert "not sparse: none of 2 matrices holds a pattern" in answer.out
    assert verify(folder, "--pattern", "2of4", "--match", "*").err.count("does not hold") == 1


# --- architectures ----------------------------------------------------------------------------------------------------


@pytest.mark.fault(
    "model",
    "GPT-2, whose linear weights are stored transposed",
    "they are read along their inputs, and reported as stored that way",
)
@pytest.mark.parametrize("along", ["inputs", "outputs"])
def test_gpt2_is_read_along_its_inputs(tmp_path: Path, verify: Any, along: str) -> None:
    torch.manual_seed(0)
    model = GPT2Model(GPT2Config(vocab_size=50, n_positions=16, n_embd=32, n_layer=2, n_head=2))
    for name, weight in model.named_parameters():
        if ".c_" in name and weight.ndim == 2:
            inputs = weight.data.T if along == "inputs" else weight.data
            weight.data = project(inputs.contiguous(), TWO_OF_FOUR).view_as(inputs)
            weight.data = weight.data.T.contiguous() if along == "inputs" else weight.data
    model.save_pretrained(tmp_path)
    answer = verify(tmp_path)
    assert (
        "note: stored with the inputs first, as GPT-2 stores them, and read transposed: 8, such as h.0." in answer.out
    )
    if along == "inputs":
        assert answer.code == 0
        assert "holds: 8 of 8 targets hold exactly 2 of 4; untouched matrices: 2" in answer.out  # wte and wpe
        assert "96 x 32" in answer.out  # c_attn, outputs first
    else:
        assert answer.code == 1
        assert "unstructured: 8 of 10 matrices hold no pattern" in answer.out


@pytest.mark.fault(
    "model",
    "a convolution to verify",
    "it is read along its input channels, and reported as a convolution",
)
def test_convolutions_are_read_along_their_input_channels(tmp_path: Path, verify: Any) -> None:
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic")
    model = ResNetModel(config)
    pruned_here = 0
    for module in model.encoder.modules():
        if isinstance(module, torch.nn.Conv2d):
            rows = module.weight.data.movedim(1, -1)
            flat = project(rows.reshape(-1, rows.shape[-1]), TWO_OF_FOUR)
            module.weight.data = flat.reshape(rows.shape).movedim(-1, 1).contiguous()
            pruned_here += 1
    model.save_pretrained(tmp_path)
    answer = verify(tmp_path)
    assert answer.code == 0
    assert f"holds: {pruned_here} of {pruned_here} targets hold exactly 2 of 4" in answer.out
    assert "note: convolutions, read along their input channels" in answer.out


# --- ONNX -------------------------------------------------------------------------------------------------------------


def product(
    weight: np.ndarray[Any, Any], *before: Any, operand: str = "w", kind: str = "MatMul", **constants: Any
) -> Any:
    """A model of one product with a weight, after some nodes."""
    inputs = ["x", operand, "", "zero"] if kind == "MatMulInteger" else ["x", operand]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", name]) for name in ("x", "y"))
    stored = {"w": weight, **constants}
    if before and before[0].op_type == "Constant":
        del stored["w"]
    tensors = [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in stored.items()]
    graph = helper.make_graph([*before, node(kind, *inputs, output="y")], "g", [x], [y], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])


def node(kind: str, *inputs: str, output: str, **attributes: Any) -> Any:
    return helper.make_node(kind, list(inputs), [output], **attributes)


STORED = pruned().numpy().T  # inputs first
SIGNS = np.sign(STORED).astype(np.int16)
SCALE: dict[str, Any] = {"scale": np.float32(0.1)}
SCALES: dict[str, Any] = {"scale": np.full(ROWS, 0.1, np.float32)}
ZEROS = np.arange(ROWS, dtype=np.uint8) + 20  # one for each output
ONNX: dict[str, Any] = {
    "plain": product(STORED),
    "Cast": product(STORED.astype(np.float16), node("Cast", "w", output="c", to=TensorProto.FLOAT), operand="c"),
    "Identity": product(STORED, node("Identity", "w", output="i"), operand="i"),
    "Constant": product(STORED, node("Constant", output="w", value=numpy_helper.from_array(STORED.copy()))),
    "Identity and Transpose": product(
        STORED.T, node("Identity", "w", output="i"), node("Transpose", "i", output="t", perm=[1, 0]), operand="t"
    ),
    "int8": product(
        (SIGNS * 5).astype(np.int8), node("DequantizeLinear", "w", "scale", output="d"), operand="d", **SCALE
    ),
    "uint8": product(
        (SIGNS * 5 + 128).astype(np.uint8),
        node("DequantizeLinear", "w", "scale", "zero", output="d"),
        operand="d",
        zero=np.uint8(128),
        **SCALE,
    ),
    "uint8, a zero point for each output": product(
        (SIGNS * 5 + ZEROS).astype(np.uint8),
        node("DequantizeLinear", "w", "scale", "zero", output="d", axis=1),
        operand="d",
        zero=ZEROS,
        **SCALES,
    ),
    "uint8, transposed afterwards": product(
        (SIGNS * 5 + ZEROS).astype(np.uint8).T,
        node("DequantizeLinear", "w", "scale", "zero", output="d", axis=0),
        node("Transpose", "d", output="t"),
        operand="t",
        zero=ZEROS,
        **SCALES,
    ),
    "quantised and back": product(
        STORED,
        node("QuantizeLinear", "w", "scale", "zero", output="q"),
        node("DequantizeLinear", "q", "scale", "zero", output="d"),
        operand="d",
        zero=np.int8(0),
        **SCALE,
    ),
    "MatMulInteger": product((SIGNS * 5 + 7).astype(np.int8), kind="MatMulInteger", zero=np.int8(7)),
}


@pytest.mark.fault(
    "model",
    "an ONNX file whose weights stand behind Cast, Identity, Constant, DequantizeLinear or a transposition",
    "they are found and read along their inputs",
)
@pytest.mark.parametrize("kind", ONNX)
def test_onnx_weight_is_found_behind_other_nodes(tmp_path: Path, verify: Any, kind: str) -> None:
    onnx.save(ONNX[kind], tmp_path / "model.onnx")
    assert torch.equal(open_model(tmp_path).matrix("w") != 0, pruned() != 0)
    answer = verify(tmp_path)
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.endswith("holds: 1 of 1 targets hold exactly 2 of 4; untouched matrices: 0\n")


def blocked() -> Any:
    attributes = {"axis": 0, "block_size": 16}
    scale = np.full((4, ROWS), 0.1, np.float32)
    return product(
        SIGNS.astype(np.int8),
        node("DequantizeLinear", "w", "scale", output="d", **attributes),
        operand="d",
        scale=scale,
    )


def four_bits() -> Any:
    model = product(STORED)
    packed = np.ones((ROWS, 4, 8), np.uint8)
    model.graph.node[0].CopyFrom(helper.make_node("MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft"))
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(packed, "w"))
    model.graph.initializer.append(numpy_helper.from_array(np.ones((ROWS, 4), np.float32), "s"))
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


@pytest.mark.fault(
    "model",
    "an ONNX file whose weights are quantised in blocks or packed into 4 bits",
    "exit code 2 with a weight and how it is stored; it is never called not sparse",
)
@pytest.mark.parametrize(("make", "how"), [(blocked, "INT8 of 64 x 32"), (four_bits, "UINT8 of 32 x 4 x 8")])
def test_onnx_weight_that_is_not_read_is_named(tmp_path: Path, verify: Any, make: Any, how: str) -> None:
    onnx.save(make(), tmp_path / "model.onnx")
    answer = verify(tmp_path)
    assert answer.code == 2
    assert f"w is stored as {how}, which is not read" in answer.err
    assert "not sparse" not in answer.out


def test_onnx_table_is_held_to_no_pattern(tmp_path: Path, verify: Any) -> None:
    model = product(dense(COLUMNS, ROWS).numpy(), table=pruned().numpy())
    model.graph.node.append(node("Gather", "table", "x", output="z"))
    onnx.save(model, tmp_path / "model.onnx")
    answer = verify(tmp_path)
    assert answer.code == 1
    assert "not sparse: none of 2 matrices holds a pattern" in answer.out


def test_onnx_convolution_is_read_along_its_input_channels(tmp_path: Path, verify: Any) -> None:
    kernel = pruned(rows=8 * 9).reshape(8, 3, 3, COLUMNS).movedim(-1, 1).numpy()
    onnx.save(product(kernel, kind="Conv"), tmp_path / "model.onnx")
    answer = verify(tmp_path)
    assert answer.code == 0
    assert (
        "note: convolutions, read along their input channels, a row for each output and position: 1, such as w"
        in answer.out
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_onnx_runtime_quantises_is_read(tmp_path: Path, verify: Any) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    onnx.save(product(STORED), tmp_path / "float.onnx")
    for weight_type in (QuantType.QInt8, QuantType.QUInt8):
        quantize_dynamic(tmp_path / "float.onnx", tmp_path / "model.onnx", weight_type=weight_type)
        answer = verify(tmp_path / "model.onnx", "--pattern", "2of4", "--match", "w_quantized")
        assert (answer.code, answer.err) == (0, "")
        assert "holds: 1 of 1 targets hold" in answer.out
