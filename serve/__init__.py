"""HTTP in front of generation. It knows users and jobs; it knows no tensors."""
