"""A local model that answers, and asks the cloud when that is better."""

__version__ = "0.1.0"
