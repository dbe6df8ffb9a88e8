"""What a router's control plane is made of: its ports, its neighbours, and what it answers."""
