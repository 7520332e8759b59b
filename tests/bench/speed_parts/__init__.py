"""What `speed.py` is made of besides its lines. Nothing here is a benchmark to run by itself."""
