"""Whether a module, loss or Dataset keeps state between calls: found by comparing all objects it refers to."""
