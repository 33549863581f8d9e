"""Many photos: which, towards what, what is done already, and one stream through the engine."""
