"""Install the peers whose packages do not go with ours: ``python benchmarks/peers/install.py FOLDER``.

Each gets an environment of its own, which sees the packages of this one behind its own: the same PyTorch and Transformers train
everywhere. Benchmarks find the environments in the folder that NXM_PEERS names.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

REQUIREMENTS = {"hydra_optuna": ["hydra-optuna-sweeper"], "ray_tune": ["ray[tune]"]}


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder = Path(sys.argv[1]).resolve()
    for name, packages in REQUIREMENTS.items():
        home = folder / name
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        python = str(home / "bin" / "python")
        asked = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
        own = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()
        (Path(own) / "behind.pth").write_text(sysconfig.get_path("purelib") + "\n")
        # packages of other versions in the environment behind stay as they are
        installed = subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=False)
        print(f"{name}: {'installed' if installed.returncode == 0 else 'could not be installed'}")
    print(f"export NXM_PEERS={os.fspath(folder)}")


if __name__ == "__main__":
    main()
