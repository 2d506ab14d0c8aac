"""What the real tests are made of: processes, clients, load, gates, a balancer."""
