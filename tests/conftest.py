"""What the tests share: no network, one thread, a tiny pretrained model on disk, real GLUE where it is at hand."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before the hub's libraries are imported
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.pop("NXM_GLUE", None)

import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizer

from nxm_sweep.data.demo import generate

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


STARTS_PROCESSES = {"subprocess", "multiprocessing", "Popen", "ProcessPool", "sync_api"}
"""What a test module holds that starts processes."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of modules that start processes, and run them first: they are the longest, and end evenly that way."""
    for item in items:
        module = getattr(item, "module", None)
        if STARTS_PROCESSES & set(vars(module)) or "faults" in item.path.parts:
            item.add_marker("processes")
    items.sort(key=lambda item: item.get_closest_marker("processes") is None)


@pytest.fixture(autouse=True)
def _no_handler_is_left() -> Iterator[None]:
    """Hydra adds handlers to the root logger that write to the captured output of one test."""
    before = set(logging.root.handlers)
    yield
    for handler in set(logging.root.handlers) - before:
        logging.root.removeHandler(handler)
        handler.close()


# A shell's background job ignores Ctrl-C, and so would every process that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like one that save_pretrained writes: a random BERT of 2 layers, 32 wide, that knows the demo's words."""
    folder = tmp_path_factory.mktemp("tiny") / "model"
    folder.mkdir()
    rows = generate("paraphrase", "train", 400)
    words = sorted(
        {word for row in rows for text in (row["sentence1"], row["sentence2"]) for word in str(text).split()}
    )
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]) + "\n")
    BertTokenizer(str(vocabulary)).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words) + 5,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def glue_download() -> Path:
    """Real GLUE in the layout of the official download."""
    return _real(SHARED / "glue")


@pytest.fixture(scope="session")
def glue_hub() -> Path:
    """Real GLUE in the layout of the hub's data set."""
    return _real(SHARED / "glue-hub")


def _real(folder: Path) -> Path:
    if not folder.is_dir():
        pytest.skip(f"real GLUE is not at {folder.name}/ beside the checkout's parent")
    return folder
