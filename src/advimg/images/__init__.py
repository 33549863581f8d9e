"""Files to pixels and back: decode, orient, encode."""
