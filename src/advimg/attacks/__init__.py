"""The attack as mathematics: pure functions of tensors. No files, no printing, no model loading."""
