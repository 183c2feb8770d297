"""Whether the hub answers, asked once and briefly, so that a machine without network fails in seconds."""

from __future__ import annotations

import functools

import datasets
import huggingface_hub
from huggingface_hub import constants

_TIMEOUT_SECONDS = 5.0


@functools.cache
def go_offline_unless_reachable() -> bool:
    """Return whether the hub answers; where it does not, switch the hub's libraries to their caches.

    Without this, loading a data set that is not cached retries for 23 seconds before it fails.
    """
    if not constants.HF_HUB_OFFLINE and _answers():
        return True
    constants.HF_HUB_OFFLINE = True
    datasets.config.HF_HUB_OFFLINE = True
    datasets.config.HF_DATASETS_OFFLINE = True
    return False


def _answers() -> bool:
    try:
        huggingface_hub.get_session().head(constants.ENDPOINT, timeout=_TIMEOUT_SECONDS)
    except (OSError, huggingface_hub.errors.OfflineModeIsEnabled):
        return False
    except Exception as error:  # httpx's errors derive from Exception alone, and its package differs between versions
        if any(kind.__name__ == "TransportError" for kind in type(error).__mro__):
            return False
        raise
    return True
