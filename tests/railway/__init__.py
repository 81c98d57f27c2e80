"""A stand-in for Railway's public API; tests/contract/test_railway.py proves the platform against it."""
