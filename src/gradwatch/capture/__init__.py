"""The one place where device data becomes host data: parameters, gradients, batches, buffers, optimizer state."""
