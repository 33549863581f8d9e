"""Classifiers: a network, its official preprocessing and its labels."""
