"""What tools/matrix.py tries: families of the host with components, samplers, guiders and batches; how it judges."""
