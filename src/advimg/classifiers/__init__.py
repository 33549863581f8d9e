"""What sees the picture: a classifier is a network, a view and labels."""
