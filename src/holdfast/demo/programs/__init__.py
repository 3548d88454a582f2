"""What runs behind the gateway in the demo: programs that know nothing of Holdfast, and the gateway's configuration."""
