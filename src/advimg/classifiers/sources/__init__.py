"""Where classifiers come from: one file a source."""
