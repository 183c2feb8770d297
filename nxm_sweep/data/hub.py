"""Check once, with a short timeout, whether the hub is reachable: a machine without network then fails in seconds."""

from __future__ import annotations

import functools

import datasets
import huggingface_hub
from huggingface_hub import constants

_TIMEOUT_SECONDS = 5.0


@functools.cache
def go_offline_unless_reachable() -> bool:
    """Return whether the hub is reachable; if not, switch the hub's libraries to their caches.

    Without this, loading a data set that is not cached retries for 23 seconds before it fails.
    """
    if not constants.HF_HUB_OFFLINE and _is_reachable():
        return True
    constants.HF_HUB_OFFLINE = True
    datasets.config.HF_HUB_OFFLINE = True
    datasets.config.HF_DATASETS_OFFLINE = True
    return False


def _is_reachable() -> bool:
    try:
        huggingface_hub.get_session().head(constants.ENDPOINT, timeout=_TIMEOUT_SECONDS)
    except (OSError, huggingface_hub.errors.OfflineModeIsEnabled):
        return False
    except Exception as error:  # httpx's errors derive directly from Exception; its package differs between versions
        if any(base.__name__ == "TransportError" for base in type(error).__mro__):
            return False
        raise
    return True
