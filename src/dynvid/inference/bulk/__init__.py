"""Very many files: each video labelled once, whatever is stopped on the way."""
