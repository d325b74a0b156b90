"""One file per loss. A file placed here is found, checked by the conformance suite and offered by the loss node."""
