"""Entry point of Hydra's plugin scan; the code is in ``nxm_sweep.sweep.hydra_sweeper``.

Hydra accepts plugins only from the namespace ``hydra_plugins``, and re-executes this module even if it is imported.
"""

from __future__ import annotations

from hydra.core.config_store import ConfigStore

from nxm_sweep.sweep.hydra_sweeper import CellSweeper, LocalPool


class NxmSweeper(CellSweeper):
    """The sweeper, registered with Hydra."""


class NxmPool(LocalPool):
    """The local launcher, registered with Hydra."""


_STORE = ConfigStore.instance()
for _group, _name, _class in (("sweeper", "nxm_sweep", NxmSweeper), ("launcher", "pool", NxmPool)):
    _STORE.store(
        group=f"hydra/{_group}", name=_name, node={"_target_": f"{__name__}.{_class.__name__}"}, provider="nxm_sweep"
    )
