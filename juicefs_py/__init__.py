"""The program: VFS, file readers and writers, mount process and commands over `meta`, `chunkstore` and `fuse`.

This file holds the version only, because every start of the program pays for what is imported here.
"""

OWN_VERSION = "0.1.0"
COMPATIBLE = "1.4.1"
"""The official client whose formats and command line we follow; volumes compare this part with their version limits."""
VERSION = f"{COMPATIBLE}+2026-11-21.py{OWN_VERSION.replace('.', '')}"
"""MAJOR.MINOR.PATCH+DATE.BUILD, as scripts, the CSI driver and other clients of a volume parse it."""
