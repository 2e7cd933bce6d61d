"""Looking after whole volumes: finding garbage and losses, cleaning up, repairing. Not a mount's own jobs (`meta`)."""
