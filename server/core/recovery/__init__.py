"""What failed, and how a later attempt joins what was delivered."""
