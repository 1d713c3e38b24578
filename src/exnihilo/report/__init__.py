"""Reports: everything here is derived from run folders; nothing hooks into the loop."""
