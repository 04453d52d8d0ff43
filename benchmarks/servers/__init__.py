"""The servers that ours is compared with; each runs in an environment without prodml_nb."""
