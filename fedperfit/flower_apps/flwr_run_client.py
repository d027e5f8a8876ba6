"""The ClientApp of `flwr run .`, which Flower's own simulation runtime runs."""

from strategies.loading import IMPORTING

with IMPORTING:
    from fl_clients.app import app

__all__ = ["app"]
