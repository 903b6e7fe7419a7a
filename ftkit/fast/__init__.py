"""Kernels chosen by probing, each with a plain reference that tests hold it to."""
