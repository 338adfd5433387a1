"""Everything that was trained elsewhere: read from a file, told apart by its names, and put in its place."""
