"""From a notebook to a candidate: data, training, compilation and gates."""
