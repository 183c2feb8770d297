"""What Hydra's plugin scan finds; it only hands on to ``nxm_sweep.sweep.hydra_sweeper``.

Hydra accepts plugins from the namespace ``hydra_plugins`` alone, and executes this module anew even if it is imported.
"""

from __future__ import annotations

from hydra.core.config_store import ConfigStore

from nxm_sweep.sweep.hydra_sweeper import CellSweeper, LocalPool


class NxmSweeper(CellSweeper):
    """Hydra's handle on the sweeper."""


class NxmPool(LocalPool):
    """Hydra's handle on the local worker processes."""


_STORE = ConfigStore.instance()
for _group, _name, _class in (("sweeper", "nxm_sweep", NxmSweeper), ("launcher", "pool", NxmPool)):
    _STORE.store(
        group=f"hydra/{_group}", name=_name, node={"_target_": f"{__name__}.{_class.__name__}"}, provider="nxm_sweep"
    )
