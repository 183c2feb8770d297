"""Which Transformers class loads a saved model, and lines of Python that use it, as its card shows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from transformers import PretrainedConfig
from transformers.models.auto import modeling_auto

_LABELS = {"onnx": 'AutoConfig.from_pretrained(".").id2label'}  # others: model.config.id2label


@dataclass(frozen=True, slots=True)
class Head:
    """How the models of one task are loaded and called.

    Attributes:
        auto: The class of Transformers that loads them.
        task: The task's name on the hub; empty if none is known.
        inputs: First arguments of the tokenizer, or of the image processor.
        answer: Lines that print what the model says, given ``logits``, ``outputs`` or ``model`` and ``inputs``.
        has_logits: Whether its only output is ``logits``, from one row of tokens: what is exported to ONNX.
    """

    auto: str
    task: str
    inputs: str = '"a text"'
    answer: str = "print(logits)"
    has_logits: bool = False


_GENERATE = "print(tokenizer.decode(model.generate(**inputs, max_new_tokens=20)[0], skip_special_tokens=True))"
_IMAGE = 'Image.new("RGB", (224, 224))'
CLASSIFIER = Head(
    "AutoModelForSequenceClassification",
    "text-classification",
    answer="print({labels}[int(logits.argmax())])",
    has_logits=True,
)
_FALLBACK = Head("AutoModel", "feature-extraction", answer="print(outputs.last_hidden_state)")
_HEADS: tuple[tuple[Mapping[str, object], Head], ...] = (
    (modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES, CLASSIFIER),
    (
        modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
        Head(
            "AutoModelForTokenClassification",
            "token-classification",
            answer="print([{labels}[int(index)] for index in logits[0].argmax(-1)])",
            has_logits=True,
        ),
    ),
    (
        modeling_auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
        Head(
            "AutoModelForQuestionAnswering",
            "question-answering",
            '"a question", "its context"',
            "first, last = outputs.start_logits.argmax(), outputs.end_logits.argmax()\n"
            'print(tokenizer.decode(inputs["input_ids"][0, first : last + 1]))',
        ),
    ),
    (
        modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        Head(
            "AutoModelForMaskedLM",
            "fill-mask",
            'f"a {tokenizer.mask_token} text"',
            'position = inputs["input_ids"][0].tolist().index(tokenizer.mask_token_id)\n'
            "print(tokenizer.decode([int(logits[0, position].argmax())]))",
            has_logits=True,
        ),
    ),
    (
        modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        Head("AutoModelForCausalLM", "text-generation", answer=_GENERATE),
    ),
    (
        modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
        Head("AutoModelForSeq2SeqLM", "text2text-generation", answer=_GENERATE),
    ),
    (
        modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
        Head("AutoModelForImageClassification", "image-classification", _IMAGE, CLASSIFIER.answer),
    ),
    (
        modeling_auto.MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES,
        Head(
            "AutoModelForMultipleChoice",
            "multiple-choice",
            '["a question"] * 2, ["a choice", "another one"], padding=True',
            "print(int(logits.argmax()))",
        ),
    ),
)


def find_head(config: PretrainedConfig) -> Head:
    """Return how a model is loaded, from the class that ``config.json`` names; ``AutoModel`` if that has no known head."""
    names = set(getattr(config, "architectures", None) or ())
    for mapping, head in _HEADS:
        known = {name for value in mapping.values() for name in (value if isinstance(value, tuple) else (value,))}
        if names & known:
            return head
    return _FALLBACK


def show_usage(
    head: Head, format_name: str, *, pairs: bool = False, regression: bool = False, max_length: int | None = None
) -> str:
    """Return Python that loads an exported folder from inside it, and prints what the model says about one input.

    Args:
        head: Of the model.
        format_name: ``dense``, ``onnx`` or ``semi_structured``.
        pairs: Whether a classifier reads two texts.
        regression: Whether a classifier answers with a number.
        max_length: Tokens at which inputs were cut in training; None if that is not known.
    """
    is_image, is_onnx = head.inputs == _IMAGE, format_name == "onnx"
    device = "cuda" if format_name == "semi_structured" else ""
    arguments = [head.inputs if head is not CLASSIFIER or not pairs else '"a text", "its pair"']
    if max_length is not None and not is_image:
        arguments += ["truncation=True", f"max_length={max_length}"]
    arguments.append(f'return_tensors="{"np" if is_onnx else "pt"}"')
    processor = "processor" if is_image else "tokenizer"
    call = f"{processor}({', '.join(arguments)})" + (f'.to("{device}")' if device else "")
    if "MultipleChoice" in head.auto:
        call = f"{{name: value[None] for name, value in {call}.items()}}"
    answer = "print(float(logits[0, 0]))" if head is CLASSIFIER and regression else head.answer
    answer = answer.replace("{labels}", _LABELS.get(format_name, "model.config.id2label"))
    lines = [
        *_imports(head, format_name, answer),
        "",
        _load(head, format_name),
        f'{processor} = {"AutoImageProcessor" if is_image else "AutoTokenizer"}.from_pretrained(".")',
        f"inputs = {call}" + ("  # your image" if is_image else ""),
    ]
    if is_onnx:
        lines.append("(logits,) = session.run(None, dict(inputs))")
    elif "generate" not in answer:
        variable, attribute = (
            ("logits", ".logits") if "logits" in answer and "_logits" not in answer else ("outputs", "")
        )
        lines += ["with torch.inference_mode():", f"    {variable} = model(**inputs){attribute}"]
    return "\n".join([*lines, answer])


def _imports(head: Head, format_name: str, answer: str) -> list[str]:
    processor = "AutoImageProcessor" if head.inputs == _IMAGE else "AutoTokenizer"
    classes = [
        processor,
        *(["AutoConfig"] if "AutoConfig" in answer else []),
        *([head.auto] if format_name == "dense" else []),
    ]
    lines = ["import onnxruntime"] if format_name == "onnx" else [] if "generate" in answer else ["import torch"]
    if processor == "AutoImageProcessor":
        lines.append("from PIL import Image")
    lines.append(f"from transformers import {', '.join(sorted(classes))}")
    if format_name == "semi_structured":
        lines += ["", "from nxm_sweep.export.semi_structured import load_semi_structured"]
    return lines


def _load(head: Head, format_name: str) -> str:
    match format_name:
        case "onnx":
            return 'session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])'
        case "semi_structured":
            return 'model = load_semi_structured(".", device="cuda")  # device="cpu" gives the same weights densely'
        case _:
            return f'model = {head.auto}.from_pretrained(".").eval()'
