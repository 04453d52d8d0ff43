"""What a model promises: its spec, the frame it learns from, the requests it answers, and how it is measured."""
