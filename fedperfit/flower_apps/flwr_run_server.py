"""The ServerApp of `flwr run .`."""

from simulations.federation.flwr_run import app

__all__ = ["app"]
