"""NumPy: results written where they belong, blocks that stay in the cache, few calls."""
