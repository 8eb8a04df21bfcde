"""Triton kernels of the two passes, installed as ``poco.kernels``.

Importing this package never imports Triton; each kernel module does so itself, when a backend asks for it.
"""
