"""Messages of other libraries that say nothing to our users, silenced one by one; all others are shown."""

from __future__ import annotations

import logging
import warnings

import datasets
import transformers


def silence_known_noise() -> None:
    """Silence progress bars that we replace and reports of what every fine-tuning does."""
    datasets.disable_progress_bars()  # tokenising takes seconds, and is cached
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    # A new head is what fine-tuning starts from; the loading report lists it as if something were missing.
    logging.getLogger("transformers.utils.loading_report").setLevel(logging.ERROR)
    logging.getLogger("transformers.modeling_utils").setLevel(logging.ERROR)
    # A model that is not sharded has no sharded layers, which the loader reports layer by layer.
    logging.getLogger("transformers.distributed.tensor_parallel").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*before.*optimizer.step.*", category=UserWarning)
