"""What `juicefs objbench` does to a storage: whether it does what is expected, and how fast. No command line."""
