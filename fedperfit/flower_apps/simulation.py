"""The process of a simulation on Ray: `python -m fedperfit.flower_apps.simulation NODES BACKEND RUN_CONFIG`."""

import json
import sys

from simulations.engines.ray_process import main

if __name__ == "__main__":
    main(int(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3]))
