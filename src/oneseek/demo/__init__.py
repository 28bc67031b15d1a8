"""`oneseek demo`: our own text and chats about a town that does not exist, and base models made of it on the spot."""
