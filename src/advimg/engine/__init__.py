"""The one loop: photos in, verdicts out."""
