"""From a model in a notebook to a service in production, with the evidence made along the way."""

__version__ = "0.1.0"
