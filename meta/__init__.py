"""Metadata of a JuiceFS volume: the rules of the file system, told once, and the engines that keep its records.

Start at `meta.transaction` (what an engine offers), `meta.rules` (what the operations do) and `meta.client.MetaClient`
(what a mount or a command calls). Formats: JuiceFS Community Edition 1.4.1.
"""
