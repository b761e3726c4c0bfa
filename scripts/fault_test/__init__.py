"""What the gateway saves: sixteen faults of a primary with a fallback, and a real model that is killed."""
