"""One module for each operation: Triton kernels, launch, plain torch reference, custom op."""
