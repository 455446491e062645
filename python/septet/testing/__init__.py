"""What tests and benchmarks share: case rows, plain-torch references, tolerances."""
