"""Measurements: what a request, an operation, a file costs, beside the same on a peer, as ratios from one run."""
