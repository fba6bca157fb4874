"""Tests that prove a GPU node; `make test-gpu` runs them."""
