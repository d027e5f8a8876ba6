"""The `fedperfit` command; also `python -m fedperfit`."""

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line.

    Importing `fedperfit` has already claimed `configs`, `strategies` and so on; see `own_packages`.
    """
    from simulations.cli.main import main as run

    run()


if __name__ == "__main__":
    try:
        main()
    except ImportError as error:
        sys.exit(f"fedperfit: {error}")
