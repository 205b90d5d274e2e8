"""What the policies of selection are worth, without a server: streams, peers, figures."""
