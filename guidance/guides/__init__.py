"""One file per family of guide networks. A file placed here is found, checked and offered by the guide loader."""
