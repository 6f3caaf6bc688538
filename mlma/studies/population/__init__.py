"""Population based training: who copies whom, how a copy comes about, and the checkpoint that it begins with."""
