"""The process of a simulation on Ray: `python -m fedperfit.flower_apps.simulation APP NODES BACKEND`."""

import json
import sys
from pathlib import Path

from simulations.engines.flower_runtime import main

if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3]))
