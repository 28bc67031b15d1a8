"""How the database came to be what it is: each release that changed its tables added one step, and none is edited."""
