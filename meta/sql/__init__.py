"""Metadata in a relational database, in the tables of the official client. SQLite first; start at `meta.sql.engine`."""
