"""Speed of 2:4 kernels on the GPU at hand, layer by layer, before anything is trained."""
