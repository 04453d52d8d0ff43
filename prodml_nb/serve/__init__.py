"""The request path: decode, score, fall back, record, answer."""
