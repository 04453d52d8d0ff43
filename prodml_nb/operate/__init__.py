"""Driving the wings: pipelines, releases, the retraining loop and the demo."""
