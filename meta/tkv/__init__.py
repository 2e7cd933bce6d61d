"""Metadata in an ordered key/value store, in the keys of the official client; start at `meta.tkv.engine`."""
