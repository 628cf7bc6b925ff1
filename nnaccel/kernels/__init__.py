"""Faster implementations of named operations of the maths, one backend per array library.
`backend_of` of `backend.py` finds the backend."""
