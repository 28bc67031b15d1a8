"""What a run says about itself when it is over: its DNA, and the documents made from its journal."""
