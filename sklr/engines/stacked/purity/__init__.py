"""What a module, loss or Dataset remembers from call to call: found by comparing what can be reached from it."""
