"""The APIs that clients speak, a folder each. To add one is to add a folder and its entry point."""
