"""The APIs that clients speak, in one folder each. To add an API, add a folder and its entry point."""
