"""Recording a training step, and replaying it without Python."""
