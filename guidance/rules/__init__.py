"""One file per guidance rule. A file placed here is found, checked by the conformance suite and ready for a node."""
