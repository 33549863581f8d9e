"""Attacks, each a file that reads like its paper: tensors and settings only, no networks, no files, no printing."""
