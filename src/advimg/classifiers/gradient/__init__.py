"""The gradient network: a private copy of a classifier's network, made for fast gradients."""
