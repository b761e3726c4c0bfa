"""Floor 2: asking a target. The OpenAI SDK over a transport of our own, its errors translated once, its circuit."""
