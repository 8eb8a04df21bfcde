"""Wires: how frames come to a stream and forecasts go out, over ZeroMQ, Lab Streaming Layer and shared memory."""
