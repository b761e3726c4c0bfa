"""The plain paths: requests that are relayed as they are, without a stream and without a log."""
