"""The signed repository: keys, changes of who signs what, and what is kept in it."""
