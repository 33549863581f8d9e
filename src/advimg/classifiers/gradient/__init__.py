"""What the attack looks through: a private copy of a classifier's network, made for quick gradients."""
