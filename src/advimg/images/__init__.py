"""Files to pixels and back: decode, orient, encode, write whole or not at all."""
