"""What runs a named operation of the maths fastest on a library; `backend.py` is the way in."""
