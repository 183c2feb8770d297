"""Silence known messages of other libraries that do not concern users; all others are shown."""

from __future__ import annotations

import logging
import threading
import warnings

import datasets
import transformers


def silence_known_noise() -> None:
    """Silence progress bars that we replace and reports that every fine-tuning causes."""
    datasets.disable_progress_bars()  # tokenising takes seconds, and is cached
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    # Fine-tuning starts from a new head, which the loading report lists as missing.
    logging.getLogger("transformers.utils.loading_report").setLevel(logging.ERROR)
    logging.getLogger("transformers.modeling_utils").setLevel(logging.ERROR)
    # An unsharded model has no sharded layers, which the loader reports layer by layer.
    logging.getLogger("transformers.distributed.tensor_parallel").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*before.*optimizer.step.*", category=UserWarning)
    threading.excepthook = ignore_writer_thread


def ignore_writer_thread(args: threading.ExceptHookArgs) -> None:
    """Print the traceback of a thread unless it is TensorBoard's writer, whose error the next call to it raises too."""
    if type(args.thread).__name__ != "_AsyncWriterThread":
        threading.__excepthook__(args)
