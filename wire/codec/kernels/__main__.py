"""`python -m wire.codec.kernels` compiles all kernels into the cache."""

from wire.codec import kernels

kernels.warm()
