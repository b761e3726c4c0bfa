"""Tools that the console's tests let a gateway run."""


def lookup(query: str) -> str:
    """Look a level up."""
    return f"<img src=x onerror=alert(1)> 3.2 m for {len(query)}"
