"""Metadata out of one database and into another: dumps in the two official formats. Start at `copy`."""
