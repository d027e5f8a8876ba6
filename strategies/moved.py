"""What a method written for version 0.1 imports, and where it is now."""

_MOVED = {
    "strategies.adapters": (
        "strategies.adapters.lora is now strategies.lora.adapters; "
        "strategies.adapters.shift, .sites and .positions are in strategies.shifts"
    ),
    "'strategies.averaging'": "it is now strategies.aggregation.mean",
    "'strategies.robust'": "it is now strategies.aggregation.robust",
    "'strategies.stacking'": "it is now strategies.lora.merging",
    "'strategies.evaluate_modules'": "it is now strategies.metrics.evaluate_modules",
    "from 'strategies.aggregation'": "the averages of R, W, b are now in strategies.shifts.averages",
    "from 'strategies.metrics'": "it is now in strategies.metrics.statistics",
    "'Visit' from": "it is now TrainRequest, and its `kept` is `client_state`",
    "'Trained' from": "it is now TrainResult, and its `kept` is `client_state`",
}
"""What an import error's message contains, and what to say."""


def moved_hint(error: Exception) -> str:
    """Return `"; …"` for an import of something that has moved since version 0.1, else `""`."""
    if not isinstance(error, ImportError):
        return ""
    hints = [hint for needle, hint in _MOVED.items() if needle in str(error)]
    return f"; {hints[0]}" if hints else ""
