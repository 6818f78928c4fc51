"""llmbatch: exactly-once batch LLM inference on spot GPUs."""

__version__ = "0.1.0"
